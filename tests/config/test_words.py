from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.config.compose import compose, compose_words, write_recipe
from finetune.config.words import expand, member_words, rewrite

Command = Callable[..., tuple[int, str, str]]

NAMES = [
    "2024", "1e-4", "true", "null", "1_000",
    "lr=0.1", "größe", "a,b", "a#b", "[x]", "try(2)", "it's", '"quoted"', "a b",
    "${seed}", "\\${seed}", "${", "{a: 1}", "x\\", "~x", "a:b", "%s", "$HOME", "-1",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_taken_as_it_is_written(name: str) -> None:
    names = {"train": ["run_name", "runs_dir", "adapter"], "predict": ["out"], "score": ["predictions"]}
    for job, keys in names.items():
        words = [f"{key}={name}" for key in keys]
        words += [f"dataset.root={name}"] if name not in {"null", '"quoted"'} else []
        config = compose(["recipe=vqav2_qlora", *(new for word in words for new in rewrite(word))], job)
        assert {getattr(config, key) for key in keys} == {name}
        if len(words) > len(keys):
            assert config.dataset.root == name


@pytest.mark.parametrize("name", NAMES)
def test_a_name_survives_a_sweep_and_the_runs_own_recipe(name: str, tmp_path: Path) -> None:
    words = [*rewrite(f"run_name={name}", is_sweep=True), *rewrite("peft.r=2,4", is_sweep=True)]
    _, second = expand(words)
    composed, choices = compose_words(["recipe=vqav2_qlora", *second, *rewrite(f"dataset.root={name}x")])
    assert (composed.run_name, composed.peft.r) == (name, 4)
    folder = tmp_path / name
    folder.mkdir()
    (folder / "config.yaml").write_text(write_recipe(composed, choices), encoding="utf-8")
    assert compose(rewrite(f"recipe={folder}/config.yaml")).dataset.root == f"{name}x"


@pytest.mark.parametrize("name", ["2024", "lr=0.1", "größe (1)", "a,b"])
def test_a_run_of_any_name_is_a_recipe_and_gives_its_name(
    command: Command, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("runs") / name
    folder.mkdir(parents=True)
    composed, choices = compose_words(["recipe=quickstart", "peft.r=3"])
    for file in (folder / "config.yaml", Path(f"{name}.yaml")):
        file.write_text(write_recipe(composed, choices), encoding="utf-8")
    for words in (["evaluate", f"run={folder}"], [f"recipe={name}.yaml"], [f"recipe={folder}/config.yaml"]):
        code, out, err = command(*words, "--cfg", "job")
        assert code == 0, err
        assert "r: 3" in out


def test_a_member_of_a_sweep_is_repeated_by_a_command_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "mine (1).yaml"
    file.write_text("trainer: {max_steps: 1}\n")
    typed = [f"recipe=quickstart,{file}", "peft.r=2,4", "seed=3", "hydra/launcher=basic"]
    members = expand([new for word in typed for new in rewrite(word, is_sweep=True)])
    assert member_words(typed, members[0]) == ["recipe=quickstart", "peft.r=2", "seed=3"]
    assert member_words(typed, members[3]) == [f"recipe={file}", "peft.r=4", "seed=3"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("peft.r=2|peft.r=4", "peft.r is given twice: peft.r=2 and peft.r=4"),
        ("+trainer.extra.tf32=true|trainer.extra.tf32=false", "trainer.extra.tf32 is given twice"),
        ("peft=lora|peft=dora", "peft is given twice"),
        ("model=a/b|model.path=c/d", "model.path is given twice"),
        ("hydra.run.dir=x", "hydra.run.dir cannot be set: a run's folder is runs_dir="),
        ("hydra.job.chdir=true", "hydra.job.chdir cannot be set"),
        ("hydra.output_subdir=.hydra", "hydra.output_subdir cannot be set"),
        ("hydra.sweep.dir=x", "hydra.sweep.dir cannot be set"),
        ("hydra.callbacks.x._target_=os.system", "hydra.callbacks.x._target_ cannot be set"),
        ("--experimental-rerun|x", "No flag `--experimental-rerun`"),
        ("--run_name=x", "options are written `key=value`, without dashes: run_name=NAME"),
        ("~model", "can be removed"),
        ("trainer=3", "No choice of `trainer` `3`. Known choices"),
        ("dataset=[digits]", "No choice of `dataset` `[digits]`"),
        ("metric=[edit,exact_match]", "No choice of `metric` `[edit,exact_match]`"),
        ("peft.use_dora=3", "peft.use_dora=3: expected true or false"),
        ("seed=\udcff", "not valid UTF-8"),
        ("run_name=", "expected a name that is not empty"),
        ("run_name=..", "run_name='..': expected a name below runs_dir"),
        ("run_name=a/../b", "expected a name below runs_dir"),
        ("run_name=/abs", "not an absolute path: runs_dir=FOLDER run_name=NAME"),
        ("run_name=a\x1b[31m", "without control characters"),
        (f"run_name={'ü' * 128}", "names of at most 255 bytes"),
        ("learning_rate=1", "Did you mean `trainer.learning_rate`?"),
        ("lr=1", "Did you mean `trainer.learning_rate`?"),
        ("epochs=1", "Did you mean `trainer.num_train_epochs`?"),
        ("batch_size=1", "Did you mean `trainer.global_batch_size`?"),
        ("image_dir=x", "Did you mean `dataset.image_dir`?"),
        ("trainer.lr=1", "No option `trainer.lr`. Did you mean `learning_rate`?"),
        ("+trainer.learning_rate=1", "trainer.learning_rate is an option already: leave the `+` out"),
        ("trainer.loss=3", "trainer.loss=3: expected options in braces"),
        ("evaluation.limit=[1", "Cannot read `evaluation.limit=[1`"),
    ],
)
def test_a_word_that_cannot_be_meant_is_one_message(command: Command, words: str, message: str) -> None:
    code, out, err = command("recipe=quickstart", *words.split("|"))
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_a_sweep_is_checked_before_its_first_run_starts(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = command("-m", "recipe=quickstart", "peft.r=2,0")
    assert (code, out) == (2, "")
    assert "No run of the sweep was started." in err
    assert "run 1 of the sweep's 2 (peft.r=0): peft.r=0: expected 1 to 65536." in err
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_does_not_stop_the_sweep(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    row = '{"id": "1", "prediction": "a", "references": ["a"]}'
    Path("rows.jsonl").write_text(row)
    words = ["score", "-m", "metric=pair_accuracy,exact_match", "predictions=rows.jsonl"]
    code, out, err = command(*words)
    assert code == 2
    assert '"exact_match": 100.0' in out
    assert "error: run 0 of the sweep's 2 (metric=pair_accuracy): " in err
    assert "run 1 of the sweep's 2 (metric=exact_match)\n" in err
    assert err.endswith("error: 1 of 2 runs of the sweep failed: 0.\n")
    assert "Error executing job" not in err


def test_more_metrics_keep_their_order_in_the_runs_own_recipe(tmp_path: Path) -> None:
    words = ["recipe=quickstart", *rewrite("metrics=[edit, anls]"), "metrics.anls.convention=paper"]
    composed, choices = compose_words(words)
    (tmp_path / "config.yaml").write_text(write_recipe(composed, choices), encoding="utf-8")
    again = compose(rewrite(f"recipe={tmp_path}/config.yaml"))
    assert list(again.metrics) == ["edit", "anls"]
    assert again.metrics == compose(words).metrics
    recipe = rewrite(f"recipe={tmp_path}/config.yaml")
    assert list(compose([*recipe, *rewrite("metrics=[anls]")]).metrics) == ["anls"]
    assert compose([*recipe, *rewrite("metrics=[]")]).metrics == {}
