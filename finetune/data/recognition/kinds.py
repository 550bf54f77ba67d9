"""Kinds of task that rows are for, and what is found out about a folder of data."""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """What the rows are for."""

    detection = "boxes"
    segmentation = "masks"
    question = "questions with answers"
    caption = "captions"
    classes = "classes of whole images"
    extraction = "JSON to be read from images"
    pairs = "prompts with short answers"
    long_pairs = "prompts with long answers"
    box_pairs = "prompts with boxes as text"


class Purpose(NamedTuple):
    """What the rows of a dataset are for, and the options that read them so."""

    kind: Kind
    options: Mapping[str, str] = {}
    """Option of the dataset, such as `columns.answers` -> its value."""
    task: Mapping[str, str] = {}
    """Option, such as `task.prompt` -> its value, where the recipe of the kind has another."""


class Recognition(NamedTuple):
    """What lies in a folder or file."""

    dataset: str
    """The choice of `dataset`."""
    splits: Mapping[str, str]
    """Split -> the value of its option."""
    purpose: Purpose
