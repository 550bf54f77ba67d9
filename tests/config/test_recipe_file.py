import time
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., tuple[int, str, str]]

DEFAULTS = "defaults:\n  - override /model: tiny\n  - override /dataset: digits\n"
BOMB = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))

BROKEN = [
    pytest.param(b"", "r.yaml: is empty. A recipe is a mapping", id="empty"),
    pytest.param(b"- a\n- b\n", "r.yaml: line 1: expected `key: value`", id="list"),
    pytest.param(
        b"trainer:\n\tmax_steps: 1\n", "r.yaml line 2: not valid YAML (indented with a tab", id="tab"
    ),
    pytest.param(b"trainer: {a: [1\n", "r.yaml line 2: not valid YAML", id="broken"),
    pytest.param(
        b"seed: 1\npeft: {r: 1}\nseed: 2\n", "r.yaml line 3: `seed` is also set in line 1", id="twice"
    ),
    pytest.param(
        b"peft:\n  r: 1\n  r: 2\n", "r.yaml line 3: not valid YAML (found duplicate key r", id="inner"
    ),
    pytest.param(
        b"seed: !!python/object/apply:os.system [ls]\n", "r.yaml line 1: not valid YAML", id="tag"
    ),
    pytest.param(b"run_name: \xff\n", "r.yaml is not UTF-8 (byte 10)", id="latin"),
    pytest.param(BOMB.encode(), "r.yaml has more than 100,000 values", id="bomb"),
    pytest.param(b"trainer: &t\n  extra: *t\n", "r.yaml line 1: an alias refers to a node that", id="self"),
    pytest.param(b"seed: " + b"[" * 100_000, "r.yaml is nested too deeply", id="deep"),
    pytest.param(
        b"sead: 1\n", "r.yaml line 1: `sead` is not an option of a run. Did you mean `seed`?", id="key"
    ),
    pytest.param(b"hydra: {run: {dir: x}}\n", "`hydra` is not an option of a run", id="hydra"),
    pytest.param(
        b"defaults:\n  - override /hydra/launcher: x\n", "line 2: expected `- override /GROUP", id="group"
    ),
    pytest.param(
        b"defaults:\n  - override /modle: x\n", "no group `modle`. Did you mean `model`?", id="typo"
    ),
    pytest.param(
        b"defaults:\n  - override /model: tinny\n", "r.yaml: No choice of `model` `tinny`", id="choice"
    ),
    pytest.param(
        (DEFAULTS + "trainer:\n  learning_rte: 1\n").encode(),
        "r.yaml line 5: No option `trainer.learning_rte`. Did you mean `learning_rate`?",
        id="nested",
    ),
    pytest.param(
        (DEFAULTS + "trainer:\n  max_steps: many\n").encode(),
        "r.yaml line 5: trainer.max_steps=many: expected a",
        id="type",
    ),
    pytest.param(
        (DEFAULTS + "trainer: [1]\n").encode(), "r.yaml line 4: expected options, `key: value`", id="shape"
    ),
    pytest.param(
        b"dataset: 5\n", "r.yaml line 1: expected options, `key: value`, under `dataset`", id="any"
    ),
    pytest.param(
        b"trainer: {loss: 5}\n", "line 1: expected options, `key: value`, under `trainer.loss`", id="in"
    ),
    pytest.param(
        b"tracker: {project: '${oc.env:HF_TOKEN}'}\n", "r.yaml: ${oc.env:HF_TOKEN} would", id="secret"
    ),
]


@pytest.mark.parametrize(("text", "message"), BROKEN)
@pytest.mark.parametrize("as_run", [False, True])
def test_a_file_that_is_not_a_recipe_is_one_message(
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: bytes,
    message: str,
    as_run: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / ("x/config.yaml" if as_run else "r.yaml")
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(text)
    started = time.monotonic()
    words = ["evaluate", "run=x"] if as_run else ["recipe=r.yaml"]
    code, out, err = command(*words)
    assert (code, out) == (2, "")
    assert message.replace("r.yaml", "x/config.yaml" if as_run else "r.yaml") in err
    assert err.count("\n") == 1
    assert time.monotonic() - started < 10
    assert not (tmp_path / "runs").exists()


def test_a_folder_is_not_a_recipe(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").mkdir()
    assert "recipe=r.yaml is a folder. Expected a file" in command("recipe=r.yaml")[2]
    (tmp_path / "r.yaml/config.yaml").write_text("seed: 1")
    assert "A run's recipe is recipe=r.yaml/config.yaml." in command("recipe=r.yaml")[2]


def test_a_recipe_whose_key_another_choice_lacks_says_so(command: Command) -> None:
    _, _, err = command("recipe=jsonl_qlora", "dataset=release")
    assert (
        "jsonl_qlora.yaml line 20: `dataset.validation_fraction` is set, but dataset=release has no" in err
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["dataset.validation=v.jsonl"], ["validation: v.jsonl", "validation_fraction: null"]),
        (["dataset.validation_fraction=0.2"], ["validation: null", "validation_fraction: 0.2"]),
    ],
)
def test_the_validation_split_of_the_command_line_wins(words: list[str], expected: list[str]) -> None:
    from omegaconf import OmegaConf

    from finetune.config.compose import compose_words, prefer_command_line

    composed, _ = compose_words(["recipe=coco_json_qlora", *words])
    prefer_command_line(composed, words)
    text = OmegaConf.to_yaml(composed.dataset)
    assert all(line in text for line in expected)
