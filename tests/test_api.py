"""The commands as functions: for programs and notebooks, which keep what is theirs."""

import json
import logging
import os
import random
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file

import finetune
from finetune.call import to_words
from finetune.command import read_line
from finetune.config.compose import compose_words
from finetune.errors import UserError
from finetune.training.trainer import PaliGemmaTrainer
from tests.conftest import REPOSITORY, noise_image
from tests.jobs.forked import at_call

SMALL: dict[str, Any] = {
    "recipe": "quickstart",
    "trainer": {
        "max_steps": 3, "global_batch_size": 4, "logging_steps": 1, "dataloader_num_workers": 0,
    },
    "evaluation": {"limit": 4, "batch_size": 4},
}  # fmt: skip


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of three steps."""
    folder = tmp_path_factory.mktemp("api")
    result = finetune.train(**SMALL, runs_dir=folder, run_name="short")
    assert result.folder == folder / "short"
    return result.folder


def test_the_package_exports_its_commands_and_nothing_else() -> None:
    assert finetune.__all__ == [
        "UserError",
        "compare",
        "demo",
        "evaluate",
        "export",
        "load",
        "merge",
        "plan",
        "predict",
        "preview",
        "push",
        "reproduce",
        "score",
        "train",
        "write_report",
    ]
    assert all(callable(getattr(finetune, name)) for name in finetune.__all__)
    with pytest.raises(AttributeError, match="no attribute `trian`"):
        finetune.trian  # noqa: B018


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import finetune, sys; "
        "heavy = {'torch', 'transformers', 'hydra', 'omegaconf', 'numpy', 'PIL', 'datasets'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0


SCRIPT = """
import logging, signal, sys
import finetune
from PIL import Image, ImageDraw

lines = []
class Mine(logging.Handler):
    def emit(self, record):
        lines.append(record.getMessage())
logging.basicConfig(level=logging.INFO, handlers=[Mine()])
def stop(number, frame): ...
signal.signal(signal.SIGTERM, stop)
before = signal.getsignal(signal.SIGINT), sys.argv[:]

result = finetune.train(
    "recipe=quickstart", "trainer.max_steps=3", "evaluation.limit=4",
    runs_dir="runs", trainer={"logging_steps": 1, "global_batch_size": 4},
)
losses = [(entry["step"], entry["loss"]) for entry in result.history if "loss" in entry]
assert [step for step, _ in losses] == [1, 2, 3]
plot = Image.new("L", (60, 40), 255)
ImageDraw.Draw(plot).line([(20 * step - 10, 40 / loss) for step, loss in losses], fill=0)
plot.save("losses.png")

digit = Image.new("RGB", (56, 56), "white")
answers = finetune.predict(run=result.folder, image=[digit, digit], prefix="answer en which digit is this?")
assert [row["image"] for row in answers.rows] == ["0", "1"]
assert answers.rows[0]["prediction"] == answers.rows[1]["prediction"]
assert finetune.score(metric="exact_match", predictions=result.rows).scores["n"] == 4
assert any("the run is in runs/quickstart" in line for line in lines)
assert (signal.getsignal(signal.SIGINT), sys.argv) == before
assert signal.getsignal(signal.SIGTERM) is stop
"""


@pytest.mark.slow
def test_a_script_trains_predicts_and_scores_without_a_line_on_standard_output(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    process = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout == ""
    assert "learning: 151,552" in (tmp_path / "runs/quickstart/train.log").read_text()
    with Image.open(tmp_path / "losses.png") as plot:
        assert plot.getextrema()[0] == 0


def settings() -> list[Any]:
    """Return what belongs to the caller: logging, signals, warnings, environment, Hydra."""
    ours = logging.getLogger("finetune")
    return [
        [(logger.level, list(logger.handlers), logger.propagate) for logger in (ours, logging.getLogger())],
        {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)},
        list(warnings.filters),
        warnings.formatwarning,
        sys.excepthook,
        dict(os.environ),
        list(sys.argv),
        sys.stdout,
        dict(Singleton._instances),
        OmegaConf.has_resolver("sweep_name"),
    ]


CELLS = [
    "import finetune, logging\nlines = []\nhandler = logging.Handler()\nhandler.emit = lines.append\n"
    "logging.getLogger().addHandler(handler)",
    "first = finetune.train(**SMALL)",
    "second = finetune.train(**SMALL, overwrite=True)\nassert second.scores == first.scores",
    "import threading\nresults = []\n"
    "thread = threading.Thread(target=lambda: results.append(finetune.train(**SMALL, run_name='thread')))\n"
    "thread.start()\nthread.join()\nassert results[0].scores == first.scores",
    "model = finetune.load(run=first.folder)\nrow = model.ask(digit, 'answer en which digit is this?')\n"
    "assert model.processor.tokenizer and not model.model.training",
    "again = finetune.evaluate(run=first.folder)\nassert len(again.rows) == 4",
    "logging.getLogger().removeHandler(handler)\n"
    "assert [line for line in lines if line.levelname == 'INFO'] == []",
]


@pytest.mark.slow
def test_cells_of_a_notebook_leave_the_process_as_it_was(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = settings()
    space: dict[str, Any] = {"SMALL": SMALL, "digit": Image.new("L", (56, 56), 200)}
    for cell in CELLS:
        exec(cell, space)
    for now, then in zip(settings(), before, strict=True):
        assert now == then
    assert capsys.readouterr().out == ""
    first = space["first"]
    assert first.objective.field == "exact_match"
    assert first.objective.higher_is_better
    assert first.objective.value == first.scores["exact_match"]
    written = json.loads((first.folder / "metrics.json").read_text())
    assert written.pop("evaluate")
    assert written["final"] == first.metrics["final"]
    assert space["row"]["prediction"]


def test_a_mistake_is_an_exception_and_the_next_call_works(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = settings()
    for options, message in (
        ({"recipe": "quickstrt"}, "Did you mean `quickstart`"),
        ({**SMALL, "sead": 1}, "Did you mean `seed`"),
        ({**SMALL, "peft": {"r": "many"}}, "peft.r=many: expected a whole number, 1 to 65536"),
        ({**SMALL, "peft": {"r": object()}}, "peft.r: expected a number, a text"),
        ({**SMALL, "trainer": {"optim": "adamw_fast"}}, "adamw_fast"),
    ):
        with pytest.raises(UserError, match=message):
            finetune.train(**options)
    with pytest.raises(UserError, match="is a flag of the command line"):
        finetune.train("-m", "recipe=quickstart")
    assert settings() == before
    assert not (inside / "runs").exists()
    result = finetune.plan(**SMALL)
    assert (result.steps, result.batch, result.learning) == (3, 4, 151_552)
    captured = capsys.readouterr()
    assert (captured.out, settings()) == ("", before)


TEXTS = [
    "caption {language}", "${seed}", r"\${x}", "it's \"so\"", "a,b", "null", "[1]", "1e3", " x ", "größe",
    "line\nline", "a\\", "\\'", "true", "", "{a: 1}", "$", "a=b", "#", "'quoted'",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_passed_as_it_is(text: str) -> None:
    words = [*to_words("recipe", "quickstart"), *to_words("task.prompt", text), *to_words("run_name", text)]
    config, _ = compose_words(read_line("train", words).overrides)
    assert config.task.prompt == text
    assert config.run_name == text
    words = ["recipe=quickstart_detect", *to_words("task.labels", [text, "other"])]
    assert list(compose_words(read_line("train", words).overrides)[0].task.labels) == [text, "other"]


def test_values_of_python_keep_their_types() -> None:
    options: dict[str, Any] = {
        "recipe": Path("quickstart"),
        "peft": {"r": torch.tensor(16), "use_dora": True, "target_modules": ("q_proj", "v_proj")},
        "model": {"resolution": None, "final_logit_softcap": False},
        "trainer": {"learning_rate": 1e-4, "extra": {"torch_compile": False, "seed_offset": None}},
    }
    words = [word for key, value in options.items() for word in to_words(key, value)]
    config, _ = compose_words(read_line("train", words).overrides)
    assert (config.peft.r, config.peft.use_dora) == (16, True)
    assert list(config.peft.target_modules) == ["q_proj", "v_proj"]
    assert (config.model.resolution, config.trainer.learning_rate) == (None, 1e-4)
    assert dict(config.trainer.extra) == {"torch_compile": False, "seed_offset": None}
    with pytest.raises(UserError, match=r"task.prompt: expected a text, but got \['a'\]"):
        to_words("task.prompt", ["a"])


def test_a_caller_keeps_hydra_and_its_own_configs(inside: Path, trained: Path) -> None:
    (inside / "mine.yaml").write_text("width: 3\n")
    ConfigStore.instance().store(name="schema", node={"mine": 1})
    with initialize_config_dir(str(inside), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        finetune.plan(**SMALL)
        assert GlobalHydra.instance().hydra is hydra
        assert compose("mine").width == 3
    assert "schema.yaml" in ConfigStore.instance().repo
    assert ConfigStore.instance().load("schema.yaml").node == {"mine": 1}


def test_an_image_may_be_open_or_a_file(trained: Path, inside: Path) -> None:
    image = Image.effect_noise((56, 56), 80)
    image.save("noise.png")
    options: dict[str, Any] = {"run": trained, "prefix": "answer en which digit is this?"}
    of_file = finetune.predict(**options, image="noise.png").rows
    of_path = finetune.predict(**options, image=Path("noise.png")).rows
    of_image = finetune.predict(**options, image=image).rows
    assert of_file == of_path
    [row], [other] = of_file, of_image
    assert row == other | {"image": "noise.png"}
    pixels = np.asarray(image.convert("RGB"))
    assert finetune.predict(**options, image=pixels).rows == [other]
    assert next(iter(finetune.predict(**options, image=[pixels, "noise.png"]).rows)) == other
    model = finetune.load(run=trained)
    assert model.ask(pixels, options["prefix"]) == other
    unusable: list[Any] = [pixels / 255, pixels[..., 0], 5, None, [image]]
    for wrong in unusable:
        with pytest.raises(
            UserError, match=r"image: expected a file, an image opened with PIL, or an array"
        ):
            model.ask(wrong, options["prefix"])
    with pytest.raises(UserError, match="prefix: expected a text, but got 5"):
        model.ask(image, 5)  # type: ignore[arg-type]
    (inside / "broken.png").write_bytes((inside / "noise.png").read_bytes()[:-900])
    with pytest.raises(UserError, match="broken.png"):
        finetune.predict(**options, image="broken.png")


def test_rows_of_a_program_are_scored_as_those_of_a_file(inside: Path) -> None:
    rows = [{"id": str(n), "prediction": "a", "references": ["ab"[n % 2]]} for n in range(4)]
    (inside / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    scored = finetune.score(metric="exact_match", predictions=(row for row in rows))
    assert scored == finetune.score("metric=exact_match", predictions=inside / "rows.jsonl")
    assert scored.scores == {"exact_match": 50.0, "n": 4}
    with pytest.raises(UserError, match="predictions item 2.*expected `prediction`"):
        finetune.score(metric="exact_match", predictions=[rows[0], {"id": "1", "references": ["a"]}])
    with pytest.raises(UserError, match="expected rows as JSON has them"):
        finetune.score(metric="exact_match", predictions=[{"prediction": object()}])


def interrupt() -> None:
    raise KeyboardInterrupt


def test_an_interrupt_saves_the_last_step_and_a_resumed_run_ends_as_a_whole_one(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**SMALL, "peft": {"lora_dropout": 0.1}}
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(PaliGemmaTrainer, "compute_loss", PaliGemmaTrainer.compute_loss)
        at_call(PaliGemmaTrainer, "compute_loss", 3, interrupt, after=True)
        with pytest.raises(KeyboardInterrupt):
            finetune.train(**options, run_name="cut")
    assert signal.getsignal(signal.SIGINT) is handler
    assert (inside / "runs/cut/checkpoints/checkpoint-2/complete").is_file()
    resumed = finetune.train(**options, run_name="cut", resume=True)
    whole = finetune.train(**options, run_name="whole")
    weights, others = (
        load_file(result.folder / "adapter/adapter_model.safetensors") for result in (resumed, whole)
    )
    assert all(torch.equal(weights[name], others[name]) for name in others)
    assert resumed.metrics["train"]["loss"] == pytest.approx(whole.metrics["train"]["loss"])


def test_an_interrupt_before_the_first_step_leaves_no_folder(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PaliGemmaTrainer, "compute_loss", PaliGemmaTrainer.compute_loss)
    at_call(PaliGemmaTrainer, "compute_loss", 1, interrupt)
    with pytest.raises(KeyboardInterrupt):
        finetune.train(**SMALL)
    assert not (inside / "runs/quickstart").exists()


def test_a_callers_random_numbers_go_on_as_if_nothing_was_trained(inside: Path) -> None:
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)
    expected = random.Random(7).random(), np.random.RandomState(7).rand(), torch.Generator().manual_seed(7)
    finetune.train(**SMALL, run_name="again")
    assert (random.random(), np.random.rand()) == expected[:2]
    assert torch.rand(1).item() == torch.rand(1, generator=expected[2]).item()


def test_metrics_are_a_list_or_a_dict_with_their_options() -> None:
    assert to_words("metrics", ["anls", "edit"]) == ["metrics=[anls,edit]"]
    rows = [{"id": "1", "prediction": "neat", "references": ["net"]}]
    scored = finetune.score(
        metric="exact_match", metrics={"anls": {"convention": "paper"}}, predictions=rows
    )
    assert scored.scores["anls"] == pytest.approx(0.75)
    plain = finetune.score(metric="exact_match", metrics=["anls"], predictions=rows)
    assert list(plain.scores) == ["exact_match", "anls", "n"]


def test_options_of_a_dataset_and_a_task_may_be_dicts(inside: Path) -> None:
    noise_image(0, 20, 20).save(inside / "a.png")
    row = {"image": "a.png", "prefix": "caption en", "suffix": "a dog"}
    (inside / "rows.jsonl").write_text(json.dumps(row) + "\n")
    files = {"train": "rows.jsonl", "validation": "rows.jsonl", "validation_fraction": None}
    plan = finetune.plan(
        recipe="jsonl_qlora", model="tiny", dataset=files, task={"lower": True}, metric={"lower": True}
    )
    assert (plan.train_examples, plan.validation_examples) == (1, 1)


def test_standard_error_has_neither_bars_nor_deprecations(
    trained: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        finetune.load(run=trained)
    assert capfd.readouterr() == ("", "")


def test_a_result_is_read_after_the_program_changed_its_folder(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = finetune.train(**SMALL, run_name="moved")
    (inside / "elsewhere").mkdir()
    monkeypatch.chdir(inside / "elsewhere")
    assert result.folder == inside / "runs/moved"
    assert len(result.rows) == 4
