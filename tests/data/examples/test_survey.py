from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import PaliGemmaProcessor

from finetune.data.batches.collator import Collator
from finetune.data.examples.dataset import ExampleDataset
from finetune.data.examples.inspection import Check
from finetune.data.examples.survey import survey_rows
from finetune.errors import UserError
from finetune.example import Example
from finetune.tasks.objects import ObjectsOptions
from finetune.tasks.task import Text
from finetune.tasks.text import TextTask
from tests.conftest import noise_image

SUFFIXES = [["a red circle", "a circle"], ["é" * 30], ["7"], ["a" * 50, "b"]]
VQA = TextTask("answer en {question}", "answers")


def build(task: Any = VQA, **columns: list[Any]) -> ExampleDataset:
    count = len(next(iter(columns.values())))
    rows = {"id": [f"r{i}" for i in range(count)], "group": [None] * count, "image": ["x.png"] * count}
    return ExampleDataset(Dataset.from_dict({**rows, **columns}), task, "train")


@pytest.fixture(scope="module")
def collator(processor: PaliGemmaProcessor) -> Collator:
    return Collator(processor)


def find(examples: ExampleDataset, collator: Collator, check: Check | None = None) -> dict[int, str]:
    return survey_rows(examples, collator, check).find_faults()


def test_every_text_is_looked_at_and_right_rows_are_not_reported(collator: Collator) -> None:
    answers = [["yes"], ["a", "\t"], [], ["<eos>"], ["no", "maybe"]]
    faults = find(build(question=["a", "b", "c", "d", "<bos>"], answers=answers), collator)
    assert sorted(faults) == [1, 2, 3, 4]
    assert "suffix 2 of 2 has no text: '\\t'" in faults[1]
    assert "has no suffix" in faults[2]
    assert "reserved token <eos>" in faults[3]
    assert "'answer en <bos>' contains the reserved token <bos>" in faults[4]


def test_the_limit_is_exact(collator: Collator) -> None:
    examples = build(question=["what?"] * 30, answers=[["red " * n + "red"] for n in range(30)])
    faults = survey_rows(examples, collator).find_faults(most_tokens=20)
    for index, row in enumerate(examples.rows):
        tokens = collator.count_text_tokens("answer en what?", row["answers"][0])
        assert (index in faults) == (tokens > 20)
    assert 0 < len(faults) < 30


def test_a_check_sees_row_and_target_and_whatever_it_raises_is_a_fault(collator: Collator) -> None:
    def check(row: Any, target: Any) -> None:
        if target["references"] == ["b"]:
            raise UserError("no b")
        if target["references"] == ["c"]:
            raise KeyError("c")

    faults = find(build(question=["q"] * 3, answers=[["a"], ["b"], ["c"]]), collator, check)
    assert faults[1] == "no b"
    assert "Row `r2` cannot be used: KeyError: 'c'" in faults[2]
    assert 0 not in faults


def test_a_task_that_fails_names_the_row_and_with_debug_the_place(
    collator: Collator, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fails(TextTask):
        def measure_text(self, row: Any, draw: Any = None) -> Text:
            return Text("x", (row["answers"][7],))

    examples = build(Fails("x", "answers"), answers=[["a"]])
    assert "Row `r0` cannot be used: IndexError" in find(examples, collator)[0]
    monkeypatch.setenv("FINETUNE_DEBUG", "1")
    with pytest.raises(IndexError):
        survey_rows(examples, collator)


def test_boxes_in_text_are_counted_where_they_are_compared_as_text(collator: Collator) -> None:
    box = "<loc0001><loc0002><loc0003><loc0004> cat"
    columns: dict[str, list[Any]] = {"answers": [[box], ["cat"]], "width": [10, 10], "height": [9, 9]}
    as_text = survey_rows(build(TextTask("x", "answers"), **columns), collator)
    assert as_text.count_text_boxes({}) == 1
    assert as_text.count_text_boxes({0: "too long"}) == 0
    as_boxes = survey_rows(build(TextTask("x", "answers", objects=True), **columns), collator)
    assert as_boxes.count_text_boxes({}) == 0
    assert list(as_boxes.find_faults()) == [1]


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
    faults = find(examples, collator)
    assert list(faults) == [1]
    assert "30 wide and 20 high" in faults[1]


@pytest.mark.parametrize("shorten", [True, False])
def test_overflow_is_found_exactly_where_the_tokens_are_too_many(
    processor: PaliGemmaProcessor, shorten: bool
) -> None:
    questions = [" ".join(["circle"] * count) for count in range(1, 40)]
    answers = ["yes", "a red square", " ".join(["square"] * 40)]
    rows = Dataset.from_dict(
        {
            "id": [str(i) for i in range(len(questions))],
            "group": [None] * len(questions),
            "image": ["x.png"] * len(questions),
            "question": questions,
            "answers": [answers] * len(questions),
        }
    )
    budget = 30
    collator = Collator(processor, max_text_length=budget, shorten_prefix=shorten)
    found = survey_rows(ExampleDataset(rows, VQA, "train"), collator).find_overflow(budget)
    suffixes = {(record["id"], record["suffix"]) for record in found.suffixes}
    for index, text in enumerate(questions):
        prefix = "" if shorten else f"answer en {text}"
        needed = {answer: collator.count_text_tokens(prefix, answer) for answer in answers}
        too_long = {answer for answer, tokens in needed.items() if tokens > budget}
        assert (index in found.examples) == (len(too_long) == 3)
        if index not in found.examples:
            assert {suffix for id_, suffix in suffixes if id_ == str(index)} == too_long
    assert (len(found.examples) == 0) == shorten
    assert len(found.examples) < len(questions)


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
    longest, cut = survey_rows(split, Collator(processor)).measure_references(limit)
    assert cut == (0 if limit is None else sum(length > limit for length in lengths))
    if cut or limit is None:
        assert longest == max(lengths)


def test_boxes_in_an_image_whose_size_is_not_known_yet_are_measured(
    processor: PaliGemmaProcessor, tmp_path: Path
) -> None:
    noise_image(0, 3000, 20).save(tmp_path / "a.png")
    thing = {"label": "cat", "box_xyxy": [0.0, 0.0, 3000.0, 10.0], "iscrowd": 0, "area": None}
    rows = [
        {
            "id": "a",
            "group": None,
            "image": str(tmp_path / "a.png"),
            "width": None,
            "height": None,
            "objects": [thing] * 3,
        }
    ]
    task = ObjectsOptions("detect {labels}", labels=["cat"]).build()
    split = ExampleDataset(Dataset.from_list(rows), task, "validation")
    text = " ; ".join(["<loc0000><loc0000><loc0010><loc0010> cat"] * 3)
    expected = len(processor.tokenizer(text, add_special_tokens=False)["input_ids"]) + 1
    assert survey_rows(split, Collator(processor)).measure_references()[0] == expected


@pytest.mark.parametrize(
    ("options", "suffix_tokens"),
    [
        pytest.param({"suffix_choice": "first"}, [2, 3], id="the first"),
        pytest.param({"suffix_choice": "cycle"}, [2, 4], id="the mean"),
        pytest.param({"every_suffix": True}, [4, 8], id="all"),
        pytest.param({"max_text_length": 7, "shorten_prefix": True}, [2, 3], id="cut"),
    ],
)
def test_lengths_are_those_of_a_batch_without_reading_its_rows(
    processor: PaliGemmaProcessor, options: dict[str, Any], suffix_tokens: list[int]
) -> None:
    task = TextTask("{question}", "answers")
    answers = [["a", "b"], ["a b", "a b c d"]]
    columns = {"question": ["a", "a b c d e f"], "answers": answers, "images": [["x"], ["x", "y"]]}
    rows = {"id": ["one", "two"], "group": [None] * 2}
    examples = ExampleDataset(Dataset.from_dict({**rows, **columns}), task, "train")
    collator = Collator(processor, **options)
    prefixes = [1 + 1 + 1, 1 + 6 + 1]  # BOS and newline around it
    expected = [prefix + suffix for prefix, suffix in zip(prefixes, suffix_tokens, strict=True)]
    if collator.max_text_length:
        expected[1] = collator.max_text_length
    expected[0] += collator.tokens_per_image
    expected[1] += 2 * collator.tokens_per_image
    survey = survey_rows(examples, collator)
    assert survey.estimate_lengths().tolist() == expected
    for picked in ([1], [1, 0]):  # a section of the table, and indices into it
        survey = survey_rows(examples.select(picked), collator)
        assert survey.estimate_lengths().tolist() == [expected[index] for index in picked]
    batch_rows = [collator.encode(make(processor, row)) for row in examples.rows]
    if options.get("suffix_choice") != "cycle":
        assert [len(row.before) + sum(map(len, row.suffixes)) for row in batch_rows] == expected


def make(processor: PaliGemmaProcessor, row: Any) -> Example:
    images = tuple(noise_image(seed) for seed, _ in enumerate(row["images"]))
    return Example(row["id"], images, row["question"], tuple(row["answers"]))
