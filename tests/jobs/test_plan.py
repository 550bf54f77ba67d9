from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    ("words", "figure"),
    [
        ("freeze=none", "learning: 11,298,816 of 2,934,634,224 parameters"),
        ("freeze=vision", "learning: 9,805,824 of 2,933,141,232 parameters"),
        ("peft.target_modules=[q_proj,v_proj]", "learning: 921,600 of 2,924,257,008 parameters"),
    ],
)
def test_the_published_figures_are_reached_from_the_command_line(
    command: Command, words: str, figure: str
) -> None:
    code, out, _ = command("plan", "recipe=vqav2_qlora", *words.split())
    assert code == 0
    assert figure in out
    assert "bfloat16+nf4" in out
    assert "steps unknown, for the data cannot be read" in out


def test_the_steps_are_counted_from_the_data(command: Command) -> None:
    _, out, _ = command("plan", "recipe=quickstart")
    assert "1,500 train and 297 validation examples, batch 32: 94 steps, 2.01 epochs" in out
    _, out, _ = command("plan", "recipe=quickstart", "trainer.limit=64")
    assert "64 train and 297 validation examples, batch 32: 4 steps, 2.00 epochs" in out


def test_a_plan_writes_nothing(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command("plan", "recipe=quickstart")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model", ["paligemma2_3b", "paligemma2_10b", "paligemma2_28b"])
def test_paligemma_2_is_known_in_all_sizes(command: Command, model: str) -> None:
    code, out, _ = command("plan", "recipe=vqav2_lora", f"model={model}")
    assert code == 0
    assert "language_model" in out
