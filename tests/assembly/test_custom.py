from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.assembly.custom import instantiate, object_options
from finetune.config.choices import GROUP_SCHEMAS
from finetune.errors import UserError
from finetune.metrics.detection import Detection, DetectionOptions, DetectionScore
from finetune.metrics.text import ExactMatch


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "target_own.py").write_text(
        "import os\n"
        "from os import system\n"
        "from functools import partial\n"
        "class Half:\n"
        "    def score(self, row): return 1.0\n"
        "    def compute(self, rows): return {'half': 50.0}\n"
        "class Whole(Half):\n"
        "    higher_is_better = {'half': True}\n"
        "run = partial(os.system, 'touch ran')\n"
        "value = 3\n"
    )
    (tmp_path / "target_broken.py").write_text("def load(:\n")
    installed = tmp_path / "site-packages"
    installed.mkdir()
    (installed / "target_foreign.py").write_text("def load(): open('ran', 'w')\n")
    (installed / "target_written.py").write_text(
        "from finetune.errors import UserError\ndef load(): return 7\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(installed)
    return tmp_path


@pytest.mark.parametrize(
    "target",
    [
        "os.system", "posix.system", "subprocess.run", "subprocess.Popen", "shutil.rmtree",
        "importlib.import_module",
        "builtins.eval", "builtins.exec", "functools.partial", "__main__.x", "torch.load",
        "torch.hub.load",
        "transformers.pipeline", "numpy.load", "hydra.utils.instantiate", "yaml.unsafe_load",
        "PIL.Image.open",
        "finetune.run.files.write_text", "finetune.cli.main", "target_own.system", "target_own.os.system",
        "target_own.run", "target_own.value", "target_own.Half.score", "target_own.nothing",
        "target_nowhere.load",
        "target_broken.load", "target_foreign.load", "system", "", 3, None, "a b.c", "os", "..x.y",
    ],
)  # fmt: skip
def test_only_what_defines_a_part_is_called(own: Path, target: Any) -> None:
    node = {"_target_": target}
    with pytest.raises(UserError, match="_target_="):
        instantiate(node)
    assert not (own / "ran").exists()


def test_a_part_of_ones_own_is_called_from_a_file_or_an_installed_module(own: Path) -> None:
    assert instantiate({"_target_": "target_own.Whole"}, "metric").compute([]) == {"half": 50.0}
    assert instantiate({"_target_": "target_written.load"}) == 7


def test_a_metric_that_lacks_a_method_is_one_message(own: Path) -> None:
    with pytest.raises(
        UserError, match=r"not a metric: it lacks `higher_is_better`. finetune/metrics/metric"
    ):
        instantiate({"_target_": "target_own.Half"}, "metric")


def test_a_recipe_of_somebody_else_runs_no_program(
    own: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    (own / "given").mkdir()
    text = "defaults:\n  - override /model: tiny\ndataset: {_target_: os.system, command: touch ran}\n"
    (own / "given/config.yaml").write_text(text)
    (own / "given/adapter").mkdir()
    for words in (["evaluate", "run=given"], ["recipe=given/config.yaml"]):
        code, _, err = command(*words)
        assert code == 2
        assert "_target_=os.system names a module of Python itself" in err
    assert not (own / "ran").exists()


def test_a_shipped_choice_takes_no_target(command: Callable[..., tuple[int, str, str]]) -> None:
    words = [
        "score",
        "metric=exact_match",
        "predictions=-",
        "metric._target_=finetune.metrics.text.AnyMatch",
    ]
    code, _, err = command(*words)
    assert code == 2
    assert "For a custom part choose `custom`" in err


def test_a_shipped_part_is_returned_as_it_is() -> None:
    metric = ExactMatch(lower=True)
    assert instantiate(metric, "metric") is metric


def test_options_build_a_part_that_they_are_not() -> None:
    options = DetectionOptions(score=DetectionScore.rank)
    assert instantiate(options, "metric") == Detection(options)


@pytest.mark.parametrize("name", GROUP_SCHEMAS["task"])
def test_every_task_says_whether_it_writes_objects(name: str) -> None:
    options = object_options(GROUP_SCHEMAS["task"][name]())
    assert (options is not None) is (name == "detection")
    assert object_options({"_target_": "mine.Task"}) is None


def test_a_recipe_that_names_other_code_is_refused_before_anything_is_looked_up(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.yaml").write_text("dataset: {_target_: os.system, command: touch was_run}\n")
    code, out, err = command("recipe=evil.yaml")
    assert code == 2
    assert "_target_=os.system names a module of Python itself" in err
    assert "looking up" not in out
    assert not (tmp_path / "was_run").exists()
