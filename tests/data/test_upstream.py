"""What `finetune/data` relies on in `datasets`.

Each test uses the library alone and fails when an update changes what it is relied on for.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Image, Value
from datasets.exceptions import DatasetGenerationError

from tests.conftest import noise_image


def generate(log: str, stamp: Any, fails: bool = False) -> Iterator[dict[str, Any]]:
    with Path(log).open("a") as file:
        file.write("read\n")
    if fails:
        raise KeyError("mine")
    yield {"id": str(stamp)}


def build(log: Path, stamp: Any, **options: Any) -> Dataset:
    features = Features({"id": Value("string")})
    arguments = {"log": str(log), "stamp": stamp, **options}
    return Dataset.from_generator(generate, features=features, gen_kwargs=arguments)


def test_rows_are_read_again_exactly_where_an_argument_differs(tmp_path: Path) -> None:
    """Else a changed file gives its old rows, or every run reads its whole source again."""
    log = tmp_path / "log"
    first = build(log, ("a.jsonl", 10, 5))
    assert build(log, ("a.jsonl", 10, 5))[:] == first[:]
    assert log.read_text().count("read") == 1
    assert build(log, ("a.jsonl", 10, 6))[:] != first[:]
    assert log.read_text().count("read") == 2


def test_a_tuple_among_the_arguments_comes_whole(tmp_path: Path) -> None:
    """Else columns, or files of one split, are divided among processes as shards, and rows are lost."""
    assert build(tmp_path / "log", ("a", "b"))["id"][:] == [str(("a", "b"))]


def test_what_a_reader_raises_is_the_cause_of_the_error(tmp_path: Path) -> None:
    """Else a mistake in the data ends in the library's words instead of the reader's."""
    with pytest.raises(DatasetGenerationError) as caught:
        build(tmp_path / "log", 1, fails=True)
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_reader_that_yields_nothing_is_a_value_error() -> None:
    """Else an empty split is a traceback instead of a message."""
    with pytest.raises(ValueError, match='Instruction "train"|empty|corresponds to no data'):
        Dataset.from_generator(lambda: iter(()), features=Features({"id": Value("string")}))


def test_an_image_that_is_not_decoded_keeps_its_bytes() -> None:
    """Else pictures of the Hub come decoded, without their rotation and with another reader's colours."""
    buffer = io.BytesIO()
    noise_image(0).save(buffer, "PNG")
    rows = Dataset.from_dict({"image": [{"bytes": buffer.getvalue(), "path": "a.png"}]})
    rows = rows.cast_column("image", Image()).cast_column("image", Image(decode=False))
    assert rows[0]["image"] == {"bytes": buffer.getvalue(), "path": "a.png"}
