from typing import Any

import pytest
from datasets import Dataset
from transformers import PaliGemmaProcessor

from finetune.data.batches.collator import Collator
from finetune.data.examples.dataset import ExampleDataset
from finetune.data.examples.survey import find_broken_images, survey_rows
from finetune.errors import UserError
from finetune.tasks.objects import ObjectsOptions
from finetune.tasks.task import Text
from finetune.tasks.text import TextTask
from tests.conftest import noise_image

VQA = TextTask("answer en {question}", "answers")


def build(task: Any = VQA, **columns: list[Any]) -> ExampleDataset:
    count = len(next(iter(columns.values())))
    rows = {"id": [f"r{i}" for i in range(count)], "group": [None] * count, "image": ["x.png"] * count}
    return ExampleDataset(Dataset.from_dict({**rows, **columns}), task, "train")


@pytest.fixture(scope="module")
def collator(processor: PaliGemmaProcessor) -> Collator:
    return Collator(processor)


def test_every_text_is_looked_at_and_right_rows_are_not_reported(collator: Collator) -> None:
    answers = [["yes"], ["a", "\t"], [], ["<eos>"], ["no", "maybe"]]
    found = survey_rows(build(question=["a", "b", "c", "d", "<bos>"], answers=answers), collator)
    assert sorted(found.faults) == [1, 2, 3, 4]
    assert "suffix 2 of 2 has no text: '\\t'" in found.faults[1]
    assert "has no suffix" in found.faults[2]
    assert "reserved token <eos>" in found.faults[3]
    assert "'answer en <bos>' contains the reserved token <bos>" in found.faults[4]


def test_the_limit_is_exact(collator: Collator) -> None:
    examples = build(question=["what?"] * 30, answers=[["red " * n + "red"] for n in range(30)])
    found = survey_rows(examples, collator, most_tokens=20)
    for index, row in enumerate(examples.rows):
        tokens = collator.count_text_tokens("answer en what?", row["answers"][0])
        assert (index in found.faults) == (tokens > 20)
    assert 0 < len(found.faults) < 30


def test_a_check_sees_row_and_target_and_whatever_it_raises_is_a_fault(collator: Collator) -> None:
    def check(row: Any, target: Any) -> None:
        if target["references"] == ["b"]:
            raise UserError("no b")
        if target["references"] == ["c"]:
            raise KeyError("c")

    found = survey_rows(build(question=["q"] * 3, answers=[["a"], ["b"], ["c"]]), collator, check)
    assert found.faults[1] == "no b"
    assert "Row `r2` cannot be used: KeyError: 'c'" in found.faults[2]
    assert 0 not in found.faults


def test_a_task_that_fails_names_the_row_and_with_debug_the_place(
    collator: Collator, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fails(TextTask):
        def measure_text(self, row: Any, draw: Any = None) -> Text:
            return Text("x", (row["answers"][7],))

    examples = build(Fails("x", "answers"), answers=[["a"]])
    assert "Row `r0` cannot be used: IndexError" in survey_rows(examples, collator).faults[0]
    monkeypatch.setenv("FINETUNE_DEBUG", "1")
    with pytest.raises(IndexError):
        survey_rows(examples, collator)


def test_boxes_in_text_are_counted_where_they_are_compared_as_text(collator: Collator) -> None:
    box = "<loc0001><loc0002><loc0003><loc0004> cat"
    columns: dict[str, list[Any]] = {"answers": [[box], ["cat"]], "width": [10, 10], "height": [9, 9]}
    assert survey_rows(build(TextTask("x", "answers"), **columns), collator).text_boxes == 1
    as_boxes = survey_rows(build(TextTask("x", "answers", objects=True), **columns), collator)
    assert as_boxes.text_boxes == 0
    assert list(as_boxes.faults) == [1]


def test_a_size_that_the_source_leaves_to_the_image_is_read_from_it(
    collator: Collator, tmp_path: Any
) -> None:
    noise_image(0, 30, 20).save(tmp_path / "a.png")
    one = {"label": "cat", "box_xyxy": [1.0, 2.0, 29.0, 19.0], "iscrowd": 0, "area": None, "mask_rle": None}
    wide = {**one, "box_xyxy": [1.0, 2.0, 90.0, 19.0]}
    examples = build(
        ObjectsOptions("detect cat", ["cat"]).build(),
        image=[str(tmp_path / "a.png")] * 2,
        width=[None, None],
        height=[None, None],
        objects=[[one], [wide]],
    )
    found = survey_rows(examples, collator)
    assert list(found.faults) == [1]
    assert "30 wide and 20 high" in found.faults[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_every_image_is_decoded_and_its_size_compared(tmp_path: Any, workers: int) -> None:
    for name in ("a.png", "b.png"):
        noise_image(0, 40, 40).save(tmp_path / name)
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:-1500])
    names = ["a.png", "b.png", "none.png", "a.png", "b.png"]
    sizes = [40, 40, 40, 39, None]
    examples = build(
        TextTask("x", "answers"),
        image=[str(tmp_path / name) for name in names],
        width=sizes,
        height=sizes,
        answers=[["y"]] * 5,
    )
    faults = find_broken_images(examples, workers)
    assert sorted(faults) == [1, 2, 3, 4]
    assert "cannot be decoded" in faults[1]
    assert "no image" in faults[2]
    assert "39 x 39" in faults[3]
    assert sorted(find_broken_images(examples, workers, range(0, 5, 3))) == [3]
