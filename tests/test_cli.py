import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from finetune.cli import main, split_job
from finetune.config.choices import GROUP_SCHEMAS
from finetune.config.compose import known_recipes
from finetune.config.jobs import JOBS, has_option
from finetune.config.schema import SPELLINGS
from finetune.config.words import keys_of, rewrite

Command = Callable[..., tuple[int, str, str]]
Process = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("trian recipe=quickstart", "No job `trian`. Did you mean `train`? Known jobs: train"),
        (
            "recipe=quickstrt",
            "`quickstart` or `quickstart_full` or `quickstart_detect`? `python -m finetune --help`",
        ),
        ("recipe=quickstart freeze=visio", "No choice of `freeze` `visio`. Did you mean `vision`?"),
        ("recipe=quickstart model=tinny", "No choice of `model` `tinny`. Did you mean `tiny`?"),
        (
            "recipe=quickstart trainer.learning_rat=1",
            "No option `trainer.learning_rat`. Did you mean `learning_rate`?",
        ),
        (
            "recipe=quickstart dataset.sise=1",
            "No option `dataset.sise`. Did you mean `size`?",
        ),
        ("recipe=quickstart sead=1", "No option `sead`. Did you mean `seed`?"),
        (
            "recipe=quickstart peft.r=many",
            "peft.r=many: expected a whole number, 1 to 65536. Rank of the adapters.",
        ),
        (
            "recipe=quickstart model.dtype=float8",
            "model.dtype=float8: expected one of bfloat16, float16, float32. Did you mean",
        ),
        (
            "recipe=quickstart model.attention=flash_attention_2",
            "Flash attention of transformers ignores the prefix mask",
        ),
        ("recipe=quickstart peft.r", "Expected `key=value`"),
        ("recipe=quickstart dataset.columns={a}?", """quotes of its own: 'dataset.columns="{a}?"'"""),
        ("recipe=quickstart peft.r=2,8", "Several values are a sweep: add `-m`"),
        ("--recipe quickstart", "without dashes: recipe=NAME"),
        ("--model=tiny recipe=quickstart", "without dashes: model=NAME"),
        ("quickstart", "No job `quickstart`. Did you mean recipe=quickstart?"),
        (
            "recipe=quickstart model.kernel=4",
            "No option `model.kernel`. The options there are: path, revision",
        ),
        ("recipe=quickstart peft.rank=4", "No option `peft.rank`. Did you mean `r`?"),
        ("recipe=quickstart model=own", "Which checkpoint? model=HUB_ID, such as model=google/"),
        ("recipe=nowhere.yaml", "There is no file nowhere.yaml either"),
        ("seed=1", "No dataset: give recipe=NAME or dataset=NAME. `python -m finetune --help` lists the"),
        ("evaluate run=nowhere", "nowhere holds no run"),
        ("recipe=quickstart =5", "Cannot read `=5`. Expected `key=value`"),
        (
            "recipe=quickstart peft.target_modules={a:1}",
            "peft.target_modules: expected another kind of value",
        ),
        (
            "recipe=mixture_qlora dataset.parts.x.weight=2",
            "the mixture has no part `x`. Add it in a recipe",
        ),
        ("recipe=quickstart peft.r=[1]", "peft.r=[1]: expected a whole number, 1 to 65536."),
        ("recipe=quickstart peft.r=null", "peft.r=null: expected a whole number, 1 to 65536."),
        (
            "recipe=quickstart trainer.learning_rate={a:1}",
            'trainer.learning_rate={"a": 1}: expected a number, more than 0, and at most 1000. Peak',
        ),
        (
            "recipe=quickstart task=detection task.labels=3",
            "task.labels=3: expected a list, such as [a,b], or null. The classes",
        ),
        (
            "recipe=quickstart trainer.loss=5",
            "trainer.loss=5: expected options in braces, whose keys are average, label_smoothing.",
        ),
        (
            "recipe=quickstart trainer.extra=5",
            "trainer.extra=5: expected options in braces, {key: value}. Any other field",
        ),
        (
            "recipe=quickstart task.labels=3",
            "no `labels` (its keys are: prompt, answers, lower, objects). It is an option of task=detect",
        ),
        (
            "recipe=quickstart dataset=5",
            "No choice of `dataset` `5`. `python -m finetune train --help` lists the 44 choices.",
        ),
        ("recipe=quickstart dataset=", "dataset= is empty."),
        ("recipe=quickstart metrics=5", "metrics=5: expected names in brackets"),
        (
            "recipe=quickstart metrics.anls.lower=true",
            "metrics.anls: the run has no metric of that name. Add it by metrics=[anls].",
        ),
        ("recipe=quickstart model.name_or_path=x", "No option `model.name_or_path`. Did you mean `path`?"),
    ],
)
def test_a_mistake_gets_one_message_and_exit_code_2(command: Command, words: str, message: str) -> None:
    code, out, err = command(*words.split())
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("error: ")
    assert "Traceback" not in err


def test_debug_shows_the_traceback(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_DEBUG", "1")
    _, _, err = command("recipe=quickstrt")
    assert "Traceback" in err


def test_help_lists_every_job_and_every_recipe_with_a_line(command: Command) -> None:
    code, out, _ = command("--help")
    assert code == 0
    for name in [*JOBS, *known_recipes()]:
        line = next(line for line in out.splitlines() if line.startswith(f"  {name} "))
        assert len(line.split()) > 3


@pytest.mark.parametrize("job", JOBS)
def test_help_of_a_job_documents_every_option(command: Command, job: str) -> None:
    code, out, _ = command(job, "--help")
    assert code == 0
    lines = out[out.index("Options") :].splitlines()
    options = [i for i, line in enumerate(lines) if re.match(r"\s+[a-z0-9_.]+=.*   \(", line)]
    shown = {SPELLINGS.get(key, key) for key in (lines[i].strip().partition("=")[0] for i in options)}
    read = {key for key in keys_of() if has_option(job, key) and not key.endswith("_target_")}
    if not has_option(job, "dataset"):
        # `reproduce` takes places of the card's own dataset, whose kind it does not choose.
        read = {key for key in read if not key.startswith("dataset.")}
    assert shown == read - set(GROUP_SCHEMAS)
    no_metric = {"compare", "demo", "doctor", "merge", "predict", "push", "report", "reproduce"}
    assert ("metric.convention" in read) == (job not in no_metric)
    for i in options:
        indent = len(lines[i]) - len(lines[i].lstrip())
        assert lines[i + 1].startswith(" " * (indent + 4)), f"{lines[i]} has no text"


def test_help_ends_quietly_where_nobody_reads_on(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        monkeypatch.setattr("sys.stdout", closed)
        assert main(["train", "--help"]) == 0
    assert capfd.readouterr().err == ""


def test_the_job_may_be_left_out() -> None:
    assert split_job(["recipe=x"]) == (None, ["recipe=x"])
    assert split_job(["plan", "recipe=x"]) == ("plan", ["recipe=x"])
    assert split_job(["-m", "recipe=x"]) == (None, ["-m", "recipe=x"])


def test_a_checkpoint_may_be_named_in_place_of_a_model_choice(command: Command) -> None:
    code, out, _ = command("recipe=quickstart", "model=someone/paligemma", "--cfg", "job")
    assert code == 0
    assert "path: someone/paligemma" in out


@pytest.mark.slow
@pytest.mark.parametrize("words", ["--help", "recipe=quickstrt", "recipe=quickstart peft.bits=3"])
def test_help_and_mistakes_never_load_torch(process: Process, words: str, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise RuntimeError('torch was imported')")
    result = process(*words.split())
    assert "torch was imported" not in result.stderr
    assert result.returncode in {0, 2}


@pytest.mark.parametrize(
    "text",
    [
        "caption {language}",
        "is it 3, or [4]?",
        'what\'s "this"',
        "a\\'b",
        "ends in \\",
        "Q: {question}\\nA:",
        "a=b",
        "",
    ],
)
def test_a_prompt_is_taken_as_it_is_written(text: str) -> None:
    parser = OverridesParser.create()
    assert parser.parse_override(rewrite(f"prefix={text}")[0]).value() == text


def test_a_prompt_that_is_quoted_or_null_or_swept_is_hydras_own() -> None:
    assert rewrite("prefix=null") == ["prefix=null"]
    assert rewrite("prefix='a, b'") == ["prefix='a, b'"]
    assert rewrite("task.prompt=a,b", is_sweep=True) == ["task.prompt=a,b"]


def test_image_names_the_file_that_predict_asks_about(command: Command) -> None:
    assert rewrite("image=a, b.jpg") == ["picture='a, b.jpg'"]
    assert rewrite("image=a,b", is_sweep=True) == ["picture='a,b'"]  # a name, also in a sweep
    assert rewrite("image.resize=paper") == ["image.resize=paper"]
    assert "\n  image=null   (str | None)\n" in command("predict", "--help")[1]
    code, _, err = command("recipe=quickstart", "image.resize=bicubc")
    assert code == 2
    assert "image.resize=bicubc: expected one of bicubic, bilinear, paper. Did you mean `bicubic`?" in err
    assert "`paper`: as big_vision does" in err


def test_a_run_of_before_the_option_is_still_a_recipe(tmp_path: Path, command: Command) -> None:
    (tmp_path / "config.yaml").write_text("image: null\nseed: 7\n")
    code, out, _ = command(f"recipe={tmp_path / 'config.yaml'}", "--cfg", "job")
    assert code == 0
    assert "seed: 7" in out
    assert "resize: bicubic" in out


def test_files_and_slices_are_taken_as_they_are_written_and_numbers_stay_numbers(command: Command) -> None:
    words = ["recipe=docvqa_qlora", "dataset.train=train[:90%]", "dataset.hub.train=train+val[1:2]"]
    code, out, _ = command(*words, "dataset.root=Pages, (all)", "--cfg", "job")
    assert code == 0
    for line in ("train: train[:90%]", "train: train+val[1:2]", "root: Pages, (all)"):
        assert f"  {line}\n" in out
    assert "  train: 64\n" in command("recipe=quickstart_detect", "dataset.train=64", "--cfg", "job")[1]
