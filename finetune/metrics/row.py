"""The former name of `fields`, which metrics that users wrote for version 0.1 import."""

from finetune.metrics.fields import (
    name_row,
    read_box,
    read_group,
    read_number,
    read_objects,
    read_prediction,
    read_references,
    read_size,
    require_group,
)

__all__ = [
    "name_row", "read_box", "read_group", "read_number", "read_objects", "read_prediction",
    "read_references", "read_size", "require_group",
]  # fmt: skip
