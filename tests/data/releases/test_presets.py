"""Each `conf/dataset/*.yaml` of a release names what the release has."""

import importlib
import inspect

import pytest
from datasets import Dataset

from finetune.config.compose import CONF_DIR, compose
from finetune.data.published import Release
from finetune.data.release import select_split, split_names

NAMES = [
    file.stem
    for file in sorted((CONF_DIR / "dataset").glob("*.yaml"))
    if "  - release\n" in file.read_text()
]


@pytest.mark.parametrize("name", NAMES)
def test_splits_options_and_columns_are_those_of_the_release(name: str) -> None:
    dataset = compose([f"dataset={name}"]).dataset
    assert isinstance(dataset, Release)
    module = importlib.import_module(f"finetune.data.releases.{dataset.release}")
    trained = split_names(dataset.train or "")
    evaluated = split_names(dataset.validation)
    assert {*trained, *evaluated} - {""} <= set(module.SPLITS)
    if dataset.train is not None:
        sizes = {
            split: Dataset.from_dict({"n": [f"{split}{n}" for n in range(200)]}) for split in module.SPLITS
        }
        train, validation = (
            select_split(sizes, spec)["n"][:] for spec in (dataset.train, dataset.validation)
        )
        assert not set(train) & set(validation)
    assert set(dataset.options) <= set(inspect.signature(module.read).parameters)
    assert set(dataset.hub.columns) <= set(module.FEATURES)
    assert (dataset.hub.path is None) == (not dataset.hub.columns)
    if dataset.train is None and dataset.hub.path:
        assert dataset.hub.train is None
