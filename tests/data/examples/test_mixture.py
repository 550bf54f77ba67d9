from collections import Counter
from pathlib import Path

import pytest
from datasets import Dataset, Features, Value

from finetune.data.batches.order import ExampleStream
from finetune.data.examples.dataset import ExampleDataset
from finetune.data.examples.mixture import count_parts, first_rows, mix_splits
from finetune.data.rows import Splits, text_features
from finetune.data.shipped.digits import load_digits
from finetune.errors import UserError
from finetune.tasks.mixture import MixedTask
from finetune.tasks.text import TextTask
from tests.conftest import noise_image


@pytest.fixture
def captions(tmp_path: Path) -> Splits:
    noise_image(0).save(tmp_path / "0.png")
    row = {
        "id": "0",
        "group": "x",
        "image": str(tmp_path / "0.png"),
        "prefix": "caption",
        "suffixes": ["a"],
    }
    rows = Dataset.from_list([row], features=text_features("prefix", lists=("suffixes",)))
    return Splits(rows, rows, ("line 2 is bad",))


def test_parts_that_are_all_empty_make_an_empty_split(captions: Splits) -> None:
    nothing = captions._replace(validation=captions.validation.select([]))
    assert len(mix_splits({"a": nothing, "b": nothing}).validation) == 0


def test_parts_with_other_columns_and_pictures_lie_in_one_table(captions: Splits) -> None:
    mixed = mix_splits({"digits": load_digits(56), "own": captions})
    assert count_parts(mixed.train) == {"digits": 1500, "own": 1}
    assert mixed.skipped == ("own: line 2 is bad",)
    task = MixedTask(
        {
            "digits": TextTask("answer en {question}", "answers"),
            "own": TextTask("{prefix} en", "suffixes"),
        }
    )
    examples = ExampleDataset(mixed.train, task, "train")
    first, last = examples[0], examples[1500]
    assert (first.prefix, first.group) == ("answer en which digit is this?", "digits")
    assert first.id.startswith("digits/digit-")
    assert (last.id, last.prefix, last.suffixes) == ("own/0", "caption en", ("a",))
    assert last.target == {"references": ["a"], "part": "own"}
    assert last.images[0].size == (20, 14)


def test_the_first_rows_are_of_every_part(captions: Splits) -> None:
    mixed = mix_splits({"digits": load_digits(56), "own": captions}).train
    assert count_parts(first_rows(mixed, 7)) == {"digits": 3, "own": 1}
    assert first_rows(captions.train, 5)["id"][:] == ["0"]


def test_a_column_of_two_types_cannot_be_mixed(captions: Splits) -> None:
    features = Features({**captions.train.features, "suffixes": Value("string")})
    row = {**captions.train[0], "suffixes": "a"}
    other = Dataset.from_list([row], features=features)
    with pytest.raises(UserError, match="Parts `a` and `b` cannot be mixed: column `suffixes`"):
        mix_splits({"a": captions, "b": Splits(other, other)})


def test_parts_are_drawn_by_weight_in_every_stretch_and_each_in_epochs_of_its_own() -> None:
    drawn = list(ExampleStream([100, 4], 300, 0, [1.0, 2.0]))
    for start in range(0, 300, 30):
        counts = Counter(index >= 100 for _, index in drawn[start : start + 30])
        assert counts == {False: 10, True: 20}
    small = [pair for pair in drawn if pair[1] >= 100]
    for epoch in range(50):
        assert sorted(small[4 * epoch : 4 * epoch + 4]) == [(epoch, index) for index in range(100, 104)]


def test_without_weights_one_epoch_draws_every_example_once() -> None:
    assert sorted(ExampleStream([7, 3], 10, 0)) == [(0, index) for index in range(10)]


def test_a_column_of_ones_own_that_is_called_part_is_a_column_as_any_other(captions: Splits) -> None:
    rows = captions.train.add_column("part", ["screw"])
    task = TextTask("{prefix} of a {part}", "suffixes")
    alone = ExampleDataset(rows, task, "train")[0]
    assert (alone.id, alone.group, alone.prefix) == ("0", "x", "caption of a screw")
    assert count_parts(rows) == {}
    mixed = mix_splits({"own": Splits(rows, rows), "digits": load_digits(56)}).train
    first = ExampleDataset(
        mixed, MixedTask({"own": task, "digits": TextTask("answer en {question}", "answers")}), "train"
    )[0]
    assert (first.id, first.group, first.prefix) == ("own/0", "own", "caption of a screw")
