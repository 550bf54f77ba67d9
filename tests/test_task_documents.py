"""Every example in docs/tasks.md is what the code makes of its row; every task has one."""

import doctest
import json
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from datasets import Dataset

from finetune.assembly.custom import instantiate
from finetune.assembly.data import build_validation
from finetune.assembly.mask_codec import use_mask_vae
from finetune.assembly.sources import build_task
from finetune.codecs.mask_vae import MaskVae
from finetune.codecs.train_mask_vae import save_mask_vae
from finetune.config.compose import compose, group_choices, known_recipes
from finetune.data.rows import Splits
from finetune.metrics.metric import Metric, compute_by_group
from finetune.tasks.objects import ObjectsTask
from finetune.tasks.task import Answer, Task, Text
from tests.conftest import REPOSITORY

DOCUMENT = (REPOSITORY / "docs/tasks.md").read_text(encoding="utf-8")


class Documented(NamedTuple):
    words: list[str]
    rows: list[dict[str, Any]]
    texts: list[Text]


def parse(block: str) -> Documented:
    """Read command words, then lines `row`, `prefix` and `suffix`; what is indented goes on with a line."""
    words, *lines = re.sub(r"\n\s+", " ", block.strip()).splitlines()
    rows: list[dict[str, Any]] = []
    texts: list[Text] = []
    for line in lines:
        kind, _, rest = line.partition(" ")
        text = rest.strip().replace(r"\n", "\n").replace(r"\t", "\t")
        match kind:
            case "row":
                rows.append({"id": str(len(rows)), "group": None, **json.loads(rest)})
            case "prefix":
                texts.append(Text(text, ()))
            case "suffix":
                texts[-1] = texts[-1]._replace(suffixes=(*texts[-1].suffixes, text))
            case _:
                raise AssertionError(f"expected row, prefix or suffix, got {line!r}")
    return Documented(shlex.split(words), rows, texts)


EXAMPLES = [parse(block) for block in re.findall(r"```text\n(.*?)```", DOCUMENT, re.DOTALL)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vae") / "vae.npz"
    save_mask_vae(MaskVae(), path)
    return path


@pytest.fixture
def own_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The class of the document, as a module."""
    code = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    (tmp_path / "own_task.py").write_text("\n".join(code))
    monkeypatch.syspath_prepend(tmp_path)


def score(task: Task, metric: Metric, rows: list[dict[str, Any]], answers: list[str]) -> dict[str, float]:
    scored = []
    for row, text in zip(rows, answers, strict=True):
        answer, target = Answer(text, 1.0), task.build_target(row)
        read = {"prediction": text, "confidence": 1.0, **task.read_answer(answer, target)}
        scored.append({"id": row["id"], "group": row["group"], **target, **read})
    return metric.compute(scored)


@pytest.mark.usefixtures("own_task")
@pytest.mark.parametrize("example", EXAMPLES, ids=[" ".join(one.words) for one in EXAMPLES])
def test_a_documented_row_becomes_its_prefix_and_suffixes(example: Documented, weights: Path) -> None:
    config = compose(["dataset=digits", *example.words])
    config = use_mask_vae(config, weights)
    rows = Dataset.from_list(example.rows)
    splits = Splits(rows, rows)
    task = build_task(config, splits)
    asked = list(build_validation(config, splits, task).iterate_rows())
    texts = [task.build_text(row) for row in asked]
    shown = [
        Text(prefix, tuple(re.sub(r"(<seg\d{3}>){16}", "<seg>*16", suffix) for suffix in suffixes))
        for prefix, suffixes in texts
    ]
    assert shown == example.texts
    metric: Metric = instantiate(config.metric)
    right = score(task, metric, asked, [text.suffixes[0] for text in texts])
    # Weights that have learned nothing draw nothing.
    if not (isinstance(task, ObjectsTask) and task.options.masks):
        wrong = score(task, metric, asked, [""] * len(asked))
        better = [
            right[name] > wrong[name] if metric.higher_is_better[name] else right[name] < wrong[name]
            for name in right
        ]
        assert any(better), (right, wrong)


def table() -> list[list[str]]:
    """The names in each column of the table, line by line."""
    lines = re.findall(r"^\|(.*)\|$", DOCUMENT, re.MULTILINE)[2:]
    return [[" ".join(re.findall(r"`(\w+)`", cell)) for cell in line.split("|")] for line in lines]


def test_every_task_has_an_example_and_a_line_of_the_table() -> None:
    words = {word for example in EXAMPLES for word in example.words}
    assert set(group_choices("task")) == {word[5:] for word in words if word.startswith("task=")}
    assert set(group_choices("task")) == {name for line in table() for name in line[1].split()}


def test_the_table_names_every_metric_it_can_and_only_recipes_that_there_are() -> None:
    assert {name for line in table() for name in line[2].split()} == set(group_choices("metric")) - {
        "any_match",
        "custom",
    }
    assert {name for line in table() for name in line[3].split()} <= set(known_recipes())


def test_the_documented_python_returns_what_the_page_shows() -> None:
    (block,) = re.findall(r"```pycon\n(.*?)```", DOCUMENT, re.DOTALL)
    test = doctest.DocTestParser().get_doctest(block, {}, "tasks.md", None, None)
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0


@pytest.mark.usefixtures("own_task")
def test_the_documented_metric_scores_rows_and_sets() -> None:
    metric: Metric = instantiate({"_target_": "own_task.Within", "most": 2})
    rows = [{"prediction": answer, "references": ["7"]} for answer in ("9", "10", "", "7")]
    assert [metric.score(row) for row in rows] == [100, 0, 0, 100]
    assert compute_by_group(metric, rows) == {"within": 50, "n": 4}
    assert set(metric.higher_is_better) == {"within"}
