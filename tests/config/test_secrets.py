from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., tuple[int, str, str]]

TOKEN = "hf_" + "aB3" * 11


@pytest.mark.parametrize(
    "word",
    [
        f"run_name={TOKEN}",
        f"+trainer.extra.hub_token={TOKEN}",
        "+trainer.extra.hub_token=short",
        "+dataset.password=short",
        "+task.api_key=short",
        f"task.prompt=say {TOKEN}",
        "tracker.project=${oc.env:WANDB_API_KEY}",
        "seed=${oc.env:MY_SECRET}",
        "model=https://me:secret1@host/x",
        "dataset.root=https://user:pass@host/x",
        "tracker.project=value-of-a-variable",
    ],
)
def test_a_secret_is_refused_without_being_printed(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOME_TOKEN", "value-of-a-variable")
    words = ["recipe=vqav2_qlora"] if "root" in word else ["recipe=quickstart"]
    code, out, err = command(*words, word)
    assert (code, out) == (2, "")
    assert "secret" in err or "cannot be set" in err
    assert TOKEN not in err
    assert "pass@" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "word",
    [
        "evaluation.max_new_tokens=9",
        "model.revision=" + "0a" * 20,
        "run_name=token_sweep",
        "tracker.project=keys",
    ],
)
def test_what_only_looks_like_one_is_accepted(command: Command, word: str) -> None:
    code, _, err = command("plan", "recipe=quickstart", word)
    assert code == 0, err
