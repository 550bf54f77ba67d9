"""A survey is made once, on one process or several, and found again as long as nothing has changed."""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import PaliGemmaProcessor

from finetune.assembly.custom import instantiate
from finetune.config.choices import GROUP_SCHEMAS
from finetune.data import cache
from finetune.data.batches.collator import Collator
from finetune.data.examples import identity, inspection, survey
from finetune.data.examples.augment import Augmentation
from finetune.data.examples.dataset import ExampleDataset
from finetune.data.examples.identity import identify
from finetune.data.examples.options import AugmentationConfig
from finetune.data.examples.survey import Survey, survey_rows
from finetune.errors import UserError
from finetune.tasks.objects import ObjectsOptions
from finetune.tasks.task import Task
from finetune.tasks.text import TextTask
from tests.conftest import noise_image

VQA = TextTask("answer en {question}", "answers")
HOSTILE: list[Any] = [
    ["yes"], [], [""], ["a", " \n"], ["<eos>"], ["<loc0001> cat"], ["\u202e\U0001f600é" * 9], ["no"] * 10,
    None, ["word " * 900],
]  # fmt: skip


@dataclass(frozen=True)
class Refuses:
    """Raises on rows with this reference."""

    text: str

    def __call__(self, row: Mapping[str, Any], target: Mapping[str, Any]) -> None:
        if target["references"] == [self.text]:
            raise UserError(f"no {self.text}")


Refuses.__module__ = survey.__name__  # code of the package has an identity, other code has none


@pytest.fixture(scope="module")
def collator(processor: PaliGemmaProcessor) -> Collator:
    return Collator(processor)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(survey, "find_cache_dir", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The chunks that were inspected in this process."""
    chunks: list[int] = []
    read = inspection.Inspection.__getitem__

    def count(self: inspection.Inspection, number: int) -> Any:
        chunks.append(number)
        return read(self, number)

    monkeypatch.setattr(inspection.Inspection, "__getitem__", count)
    return chunks


def build(task: Task = VQA, times: int = 1, **options: Any) -> ExampleDataset:
    answers = HOSTILE * times
    rows = {
        "id": [str(number) for number in range(len(answers))],
        "group": [None] * len(answers),
        "image": [f"{number % 7}.png" for number in range(len(answers))],
        "question": [None if number % 11 == 5 else f"what {number}?" for number in range(len(answers))],
        "answers": answers,
    }
    return ExampleDataset(Dataset.from_dict(rows), task, "train", **options)


def test_a_hit_equals_the_miss_and_reads_no_row(collator: Collator, passes: list[int]) -> None:
    first = survey_rows(build(), collator, Refuses("yes"))
    assert len(passes) == 1
    again = survey_rows(build(), collator, Refuses("yes"))
    assert len(passes) == 1
    assert again.columns.equals(first.columns)
    assert again.find_faults() == first.find_faults()
    assert list(first.find_faults()) == [0, 1, 2, 3, 4, 5, 8]
    assert list(first.find_faults(800)) == [0, 1, 2, 3, 4, 5, 8, 9]
    assert Collator.count_tokens(collator, "word " * 900) == first.columns["suffixes"][9].as_py()[0]


def test_several_processes_find_what_one_finds(
    collator: Collator, monkeypatch: pytest.MonkeyPatch, passes: list[int], folder: Path
) -> None:
    monkeypatch.setattr(inspection, "CHUNK", 7)
    serial = survey_rows(build(times=5), collator)
    assert len(passes) == 8
    cached = next(folder.glob("survey-*"))
    cached.rename(folder / "elsewhere")
    monkeypatch.setattr(survey, "_ROWS_A_PROCESS", 10)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    parallel = survey_rows(build(times=5), collator)
    assert len(passes) == 8, "the rows were read in other processes"
    assert parallel.columns.equals(serial.columns)
    assert next(folder.glob("survey-*")) == cached


@pytest.mark.parametrize("damage", ["byte", "cut", "notes", "gone"])
def test_a_damaged_survey_is_made_again(
    collator: Collator, folder: Path, passes: list[int], damage: str
) -> None:
    first = survey_rows(build(), collator)
    expected = first.columns.to_pylist()
    rows, notes = (next(folder.glob(f"survey-*/rows.{end}")) for end in ("arrow", "json"))
    content = bytearray(rows.read_bytes())
    if damage == "byte":
        content[len(content) // 2] ^= 1
        rows.write_bytes(content)
    elif damage == "cut":
        rows.write_bytes(content[:-100])
    elif damage == "notes":
        notes.write_text("{")
    else:
        rows.unlink()
    assert survey_rows(build(), collator).columns.to_pylist() == expected
    assert len(passes) == 2
    assert survey_rows(build(), collator).columns.to_pylist() == expected
    assert len(passes) == 2


def test_whatever_the_findings_depend_on_makes_another_survey(
    collator: Collator, processor: PaliGemmaProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(examples: ExampleDataset, collator: Collator = collator, check: Any = None) -> str | None:
        return survey_rows(examples, collator, check).key

    class OtherTokenizer(Collator):
        def describe_tokenizer(self) -> str:
            return "another"

    plain = key(build())
    assert plain is not None
    assert plain == key(build())
    assert plain == key(build(), Collator(processor, max_text_length=5, shorten_prefix=True))
    keys = [
        plain,
        key(build(replace(VQA, lower=True))),
        key(build(times=2)),
        key(build().select([0, 1])),
        key(build().select([1, 0])),
        key(build(augment=Augmentation(AugmentationConfig(flip=0.5)))),
        key(build(augment=Augmentation(AugmentationConfig(flip=0.25)))),
        key(build(), check=Refuses("yes")),
        key(build(), check=Refuses("no")),
        key(build(), OtherTokenizer(processor)),
    ]
    monkeypatch.setattr(survey, "digest_code", lambda: "another version")
    keys.append(key(build()))
    assert len(set(keys)) == len(keys)


def test_what_is_left_out_has_a_name_of_its_own(collator: Collator) -> None:
    whole = survey_rows(build(), collator)
    keys = {whole.key, whole.leave_out([1]).key, whole.leave_out([2]).key, whole.leave_out([1, 2]).key}
    assert len(keys) == 4
    assert whole.leave_out([1, 2]).examples.rows["id"][:] == list("03456789")
    assert len(whole.leave_out([1, 2]).columns) == 8


def test_a_task_without_a_lasting_name_is_inspected_each_time_and_that_is_logged(
    collator: Collator, passes: list[int], folder: Path, reported: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Local(TextTask):
        pass

    with caplog.at_level(logging.INFO, "finetune"):
        for number in (1, 2):
            assert survey_rows(build(Local("x", "answers")), collator).key is None
            assert len(passes) == number
    assert "Local is not defined at the top of a module" in caplog.text + reported()
    assert not folder.exists()


@pytest.mark.parametrize("at_first", ["broken", "another size"])
def test_an_image_that_is_read_for_its_size_and_changes_is_read_again(
    collator: Collator, tmp_path: Path, at_first: str
) -> None:
    file = tmp_path / "a.png"
    thing = {
        "label": "cat",
        "box_xyxy": [1.0, 2.0, 29.0, 19.0],
        "iscrowd": 0,
        "area": None,
        "mask_rle": None,
    }
    row = {"id": "a", "group": None, "image": str(file), "width": None, "height": None, "objects": [thing]}

    def find() -> dict[int, str]:
        split = ExampleDataset(
            Dataset.from_list([row]), ObjectsOptions("detect cat", ["cat"]).build(), "train"
        )
        return survey_rows(split, collator).find_faults()

    noise_image(0, 10, 10).save(file)
    if at_first == "broken":
        file.write_bytes(b"no image")
    assert list(find()) == [0]
    noise_image(0, 30, 20).save(file)
    assert find() == {}


def test_the_same_images_with_the_same_texts_are_counted(collator: Collator) -> None:
    def split(**changes: list[Any]) -> Survey:
        rows = {"id": ["a", "b", "c"], "group": [None] * 3, "image": ["1.png"] * 3}
        texts = {"question": ["p", "q", "r"], "answers": [["x"], ["x"], ["x", "y"]]}
        return survey_rows(
            ExampleDataset(Dataset.from_dict({**rows, **texts, **changes}), VQA, "s"), collator
        )

    train = split(id=["d", "e", "f"])
    assert len(split().find_shared(train)) == 3
    assert len(split(question=["p", "other", "r"]).find_shared(train)) == 2
    assert len(split(answers=[["x"], ["x"], ["xy"]]).find_shared(train)) == 2
    assert len(split(image=["2.png", "1.png", "1.png"]).find_shared(train)) == 2
    inside = [{"bytes": b"x", "path": None}] * 3
    assert len(split(image=inside).find_shared(split(image=inside))) == 0


def test_custom_code_and_hidden_state_have_no_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Custom code may read files and import helpers from anywhere, so nothing is kept for it."""
    (tmp_path / "mine_task.py").write_text("class Mine:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import mine_task  # type: ignore[import-not-found]

    with pytest.raises(identity.UnidentifiedError, match="mine_task.Mine is custom code"):
        identity.identify(mine_task.Mine())
    ours = Refuses("a")
    assert identity.identify(ours) == identity.identify(Refuses("a")) != identity.identify(Refuses("b"))
    for hidden in (lambda: 1, {1}, object(), json.JSONDecoder(), logging.getLogger("x"), mine_task.Mine()):
        with pytest.raises(identity.UnidentifiedError):
            identity.identify([ours, hidden])
    identity.identify([ours, cache.find_cache_dir])


@pytest.mark.parametrize(
    ("group", "name"),
    [(group, name) for group in ("task", "metric") for name in GROUP_SCHEMAS[group]],
)
def test_every_shipped_task_and_metric_has_an_identity(group: str, name: str) -> None:
    part = instantiate(GROUP_SCHEMAS[group][name](), group)
    assert identify(part) == identify(instantiate(GROUP_SCHEMAS[group][name](), group))
