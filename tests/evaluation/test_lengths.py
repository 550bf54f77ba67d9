import pytest
from datasets import Dataset
from transformers import PaliGemmaProcessor

from finetune.data.examples.dataset import ExampleDataset
from finetune.evaluation.lengths import measure_references
from finetune.tasks.objects import ObjectsOptions
from finetune.tasks.text import TextTask

SUFFIXES = [["a red circle", "a circle"], ["é" * 30], ["7"], ["a" * 50, "b"]]


@pytest.fixture
def split() -> ExampleDataset:
    rows = {
        "id": list("abcd"),
        "group": [None] * 4,
        "image": ["none.png"] * 4,
        "prefix": ["caption en"] * 4,
        "suffix": SUFFIXES,
    }
    return ExampleDataset(Dataset.from_dict(rows), TextTask("{prefix}", "suffix"), "validation")


@pytest.mark.parametrize("limit", [None, 1, 3, 10, 40, 1000])
def test_lengths_are_those_of_every_reference_with_eos(
    split: ExampleDataset, processor: PaliGemmaProcessor, limit: int | None
) -> None:
    lengths = [
        max(len(processor.tokenizer(text, add_special_tokens=False)["input_ids"]) + 1 for text in texts)
        for texts in SUFFIXES
    ]
    found = measure_references(split, processor.tokenizer, limit)
    assert found.cut == (0 if limit is None else sum(length > limit for length in lengths))
    if found.cut or limit is None:
        assert found.longest == max(lengths)


def test_boxes_in_an_image_whose_size_is_not_known_yet_are_measured(processor: PaliGemmaProcessor) -> None:
    thing = {"label": "cat", "box_xyxy": [0.0, 0.0, 3000.0, 10.0], "iscrowd": 0, "area": None}
    rows = [
        {"id": "a", "group": None, "image": "a.png", "width": None, "height": None, "objects": [thing] * 3}
    ]
    task = ObjectsOptions("detect {labels}", labels=["cat"]).build()
    split = ExampleDataset(Dataset.from_list(rows), task, "validation")
    text = " ; ".join(["<loc0000><loc0000><loc0010><loc0010> cat"] * 3)
    expected = len(processor.tokenizer(text, add_special_tokens=False)["input_ids"]) + 1
    assert measure_references(split, processor.tokenizer).longest == expected
