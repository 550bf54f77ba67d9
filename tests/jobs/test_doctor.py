from collections.abc import Callable

import pytest

from finetune.doctor.finding import ok, problem
from finetune.errors import UserError
from finetune.result import DoctorResult


def test_the_command_prints_every_finding(command: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = command("doctor")
    assert (code, err) == (0, "")
    assert "mask of paligemma2, eager" in out
    assert "problem" not in out


def test_a_problem_is_printed_with_its_remedy_and_ends_with_an_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = DoctorResult([ok("cpu", "2 cores"), problem("nccl", "fails\x1b", "update the driver")])
    with pytest.raises(UserError, match="1 problem found"):
        result.show()
    assert capsys.readouterr().out.splitlines() == [
        "ok       cpu                         2 cores",
        "problem  nccl                        fails\\x1b",
        f"{'':35}  -> update the driver",
    ]


def test_options_of_a_run_are_refused(command: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = command("doctor", "recipe=quickstart", "trainer.max_steps=3")
    assert code == 2
    assert "trainer.max_steps" in err
