import pytest
from datasets import Dataset
from transformers import PaliGemmaProcessor

from finetune.data.collator import Collator
from finetune.data.dataset import ExampleDataset
from finetune.data.digits import load_digits
from finetune.errors import UserError
from finetune.tasks.text import TextTask

VQA = TextTask("answer en {question}", "answers")


@pytest.fixture(scope="module")
def digits() -> ExampleDataset:
    return ExampleDataset(load_digits(56).train, VQA, "train")


def test_a_row_becomes_an_example_in_the_tasks_words(digits: ExampleDataset) -> None:
    example = digits[3, 0]
    assert example.prefix == "answer en which digit is this?"
    assert example.suffixes == (example.group,)
    assert example.epoch == 3
    assert example.images[0].mode == "RGB"


def test_a_column_the_task_needs_is_missed_at_once(digits: ExampleDataset) -> None:
    with pytest.raises(
        UserError, match=r"column `text` .*the rows have: id, group, image, question, answers"
    ):
        ExampleDataset(digits.rows, TextTask("caption {text}", "answers"), "train")


def test_overflow_is_found_exactly_where_the_tokens_are_too_many(processor: PaliGemmaProcessor) -> None:
    words = [" ".join(["circle"] * count) for count in range(1, 40)]
    rows = Dataset.from_dict(
        {
            "id": [str(i) for i in range(len(words))],
            "group": [None] * len(words),
            "image": ["x.png"] * len(words),
            "question": words,
            "answers": [["yes", "a red square"]] * len(words),
        }
    )
    dataset = ExampleDataset(rows, VQA, "train")
    count = Collator(processor).count_text_tokens
    found = dataset.find_overflow(count, 30)
    for index, text in enumerate(words):
        longest = max(count(f"answer en {text}", suffix) for suffix in ("yes", "a red square"))
        assert (index in found) == (longest > 30)
    assert 0 < len(found) < len(words)
    assert dataset.find_overflow(count, 30, prefix_is_cut=True) == {}
    suffix = count("", "a red square")
    assert dataset.find_overflow(count, suffix, prefix_is_cut=True) == {}
    assert len(dataset.find_overflow(count, suffix - 1, prefix_is_cut=True)) == len(words)


def test_a_picture_that_is_broken_names_split_and_row(digits: ExampleDataset) -> None:
    rows = Dataset.from_dict(
        {"id": ["q7"], "group": [None], "image": ["nowhere.png"], "question": ["?"], "answers": [["x"]]}
    )
    with pytest.raises(UserError, match=r"validation example `q7`: no image `nowhere.png`"):
        ExampleDataset(rows, VQA, "validation")[0]
