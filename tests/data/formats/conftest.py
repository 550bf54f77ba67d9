"""Pictures on disk, and every format loaded as its options say."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from PIL import Image

from finetune.config.choices import GROUP_SCHEMAS
from finetune.data.rows import Splits
from finetune.errors import UserError


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., Path]:
    """Write pictures 20 wide and 10 high under one folder, and return it."""

    def write(*names: str) -> Path:
        for number, name in enumerate(names):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 10), (number, 0, 0)).save(tmp_path / name)
        return tmp_path

    return write


@pytest.fixture
def load() -> Callable[..., Splits]:
    """Load a format with the defaults of its options; both splits from one file unless told otherwise."""

    def call(name: str, train: Path | str, **options: Any) -> Splits:
        files = {"train": str(train), "validation": str(train)}
        splits: Splits = GROUP_SCHEMAS["dataset"][name](**{**files, **options}).load()
        return splits

    return call


@pytest.fixture
def load_with_fault(load: Callable[..., Splits]) -> Callable[..., Dataset]:
    """Check that the one fault in a file is an error, and left out and listed where that is wanted.

    Returns the rows without it.
    """

    def call(name: str, train: Path | str, message: str, **options: Any) -> Dataset:
        with pytest.raises(UserError) as error:
            load(name, train, **options)
        assert message in str(error.value)
        assert str(error.value).count("dataset.on_error=skip") == 1
        splits = load(name, train, on_error="skip", **options)
        assert len(splits.skipped) == 2, "one in either split"
        assert all(message in fault for fault in splits.skipped)
        return splits.train

    return call
