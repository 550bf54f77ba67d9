from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from datasets import Dataset, Value
from transformers import PaliGemmaProcessor

from finetune.data.batches.collator import Collator
from finetune.data.examples.dataset import ExampleDataset
from finetune.data.shipped.digits import load_digits
from finetune.errors import UserError
from finetune.evaluation.evaluate import Evaluation, evaluate, group_by_image
from finetune.generation.options import EvaluationConfig
from finetune.metrics.text import ExactMatch
from finetune.model.load import load_config, load_model
from finetune.tasks.text import TextTask
from tests.conftest import noise_image


@pytest.fixture(scope="module")
def digits() -> ExampleDataset:
    task = TextTask("answer en {question}", "answers")
    return ExampleDataset(load_digits(56).validation.select(range(7)), task, "validation")


@pytest.fixture(scope="module")
def score(processor: PaliGemmaProcessor) -> Callable[..., Evaluation]:
    model = load_model("tiny", load_config("tiny"), dtype=torch.float32)

    def run(dataset: ExampleDataset, batch_size: int = 3) -> Evaluation:
        return evaluate(
            model.train(),
            dataset,
            Collator(processor),
            ExactMatch(),
            EvaluationConfig(batch_size=batch_size, max_new_tokens=4),
        )

    return run


def test_every_example_is_scored_once_in_order(
    digits: ExampleDataset, score: Callable[..., Evaluation]
) -> None:
    result = score(digits)
    assert [row["id"] for row in result.rows] == digits.rows["id"][:]
    assert result.scores["n"] == 7
    assert sum(group["n"] for group in result.scores["by_group"].values()) == 7
    for row in result.rows:
        assert set(row) == {
            "id",
            "group",
            "image",
            "prefix",
            "references",
            "prediction",
            "score",
            "confidence",
        }


def test_the_batch_size_does_not_matter(digits: ExampleDataset, score: Callable[..., Evaluation]) -> None:
    one, all_at_once = score(digits, 1), score(digits, 7)
    assert one.scores["exact_match"] == all_at_once.scores["exact_match"]
    assert one.scores["loss"] == pytest.approx(all_at_once.scores["loss"], abs=1e-4)
    assert [r["prediction"] for r in one.rows] == [r["prediction"] for r in all_at_once.rows]


def test_the_loss_is_the_mean_over_examples(
    digits: ExampleDataset, score: Callable[..., Evaluation]
) -> None:
    parts = [score(digits.select([index])).scores["loss"] for index in range(7)]
    assert score(digits).scores["loss"] == pytest.approx(sum(parts) / 7, abs=1e-4)


def test_an_example_without_a_reference_is_named(
    digits: ExampleDataset, score: Callable[..., Evaluation]
) -> None:
    rows = digits.rows.map(lambda row: {"answers": []})
    with pytest.raises(UserError, match=r"`digit-\d+` has no reference"):
        score(ExampleDataset(rows, digits.task, "validation"))


def test_rows_about_an_image_are_answered_together_and_come_back_in_their_order(
    score: Callable[..., Evaluation], tmp_path: Path
) -> None:
    for number in range(3):
        noise_image(number).save(tmp_path / f"{number}.png")
    shown = [0, 1, 0, 2, 1, 0]
    rows = Dataset.from_dict(
        {
            "id": [str(number) for number in range(6)],
            "group": [None] * 6,
            "image": [str(tmp_path / f"{number}.png") for number in shown],
            "question": ["what is it?"] * 5 + ["how many?"],
            "answers": [["one"], ["two shapes"], ["a third"], ["four"], ["5"], ["six and more"]],
        }
    )
    rows = rows.cast_column("group", Value("string"))
    dataset = ExampleDataset(rows, TextTask("answer en {question}", "answers"), "validation")
    assert group_by_image(dataset) == [[0, 2, 5], [1, 4], [3]]
    together = score(dataset)
    assert [row["id"] for row in together.rows] == rows["id"][:]
    alone = [score(dataset.select([index])) for index in range(6)]
    assert [row["prediction"] for row in together.rows] == [one.rows[0]["prediction"] for one in alone]
    mean = sum(one.scores["loss"] for one in alone) / 6
    assert together.scores["loss"] == pytest.approx(mean, abs=1e-5)
