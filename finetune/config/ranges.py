"""What values an option may have, by its key: the checks read this table, and `JOB --help` prints it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any

from finetune.config.choices import GROUP_SCHEMAS


@dataclass(frozen=True)
class Range:
    """Numbers between two ends, which are allowed themselves unless said otherwise."""

    least: float = 0
    most: float = 1e9
    above_least: bool = False
    """`least` itself is not allowed."""
    below_most: bool = False
    """`most` itself is not allowed."""

    def __contains__(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        low = value > self.least if self.above_least else value >= self.least
        return low and (value < self.most if self.below_most else value <= self.most)

    def __str__(self) -> str:
        least, most = _number(self.least), _number(self.most)
        if self.most == _ANY.most:
            return f"more than {least}" if self.above_least else f"at least {least}"
        if not self.above_least and not self.below_most:
            return f"{least} to {most}"
        low = f"more than {least}" if self.above_least else f"{least} or more"
        return f"{low}, and {'less than' if self.below_most else 'at most'} {most}"


def _number(value: float) -> str:
    return f"{value:g}" if value < 1e6 else f"{value:.0f}"


_ANY = Range()
_COUNT = Range(1)
_SHARE = Range(0, 1)
_BELOW_ONE = Range(0, 1, below_most=True)
_RATE = Range(0, 1e3, above_least=True)

RANGES: dict[str, Range] = {
    "seed": Range(0, 2**32 - 1),
    "model.resolution": Range(1, 8192),
    "model.llm_dropout": _BELOW_ONE,
    "augmentation.flip": _SHARE,
    "augmentation.crop": Range(0, 1, above_least=True),
    "augmentation.min_visible": _SHARE,
    "augmentation.brightness": _SHARE,
    "augmentation.contrast": _SHARE,
    "augmentation.saturation": _SHARE,
    "augmentation.resize": Range(0, 100, above_least=True),
    "collator.max_text_length": Range(4, 1e6),
    "freeze.last_n": Range(1, 1e4),
    "peft.r": Range(1, 65536),
    "peft.lora_alpha": Range(0, 1e6, above_least=True),
    "peft.lora_dropout": _BELOW_ONE,
    "trainer.num_train_epochs": Range(0, 1e6, above_least=True),
    "trainer.max_steps": Range(-1),
    "trainer.global_batch_size": _COUNT,
    "trainer.per_device_train_batch_size": _COUNT,
    "trainer.gradient_accumulation_steps": _COUNT,
    "trainer.limit": _COUNT,
    "trainer.learning_rate": _RATE,
    "trainer.towers.vision_tower.learning_rate": _RATE,
    "trainer.towers.multi_modal_projector.learning_rate": _RATE,
    "trainer.towers.language_model.learning_rate": _RATE,
    "trainer.adam_beta1": _BELOW_ONE,
    "trainer.adam_beta2": _BELOW_ONE,
    "trainer.adam_epsilon": Range(0, 1, above_least=True),
    "trainer.logging_steps": _COUNT,
    "trainer.save_steps": _COUNT,
    "trainer.save_total_limit": _COUNT,
    "trainer.dataloader_num_workers": Range(0, 1024),
    "trainer.dataloader_prefetch_factor": Range(1, 1e6),
    "trainer.loss.label_smoothing": _BELOW_ONE,
    "evaluation.steps": _COUNT,
    "evaluation.limit": _COUNT,
    "evaluation.batch_size": Range(1, 1e6),
    "evaluation.max_new_tokens": Range(1, 1e6),
    "evaluation.num_beams": Range(1, 1e4),
    "evaluation.pictures": Range(0, 1e6),
    "evaluation.early_stopping_patience": _COUNT,
    "dataset.validation_fraction": Range(0, 1, above_least=True, below_most=True),
    "dataset.train": Range(1, 1e6),
    "dataset.validation": Range(1, 1e6),
    "dataset.size": Range(8, 4096),
    "dataset.digits": Range(1, 100),
    "task.negatives": Range(0, 1e6),
    "weight": Range(0, 1e9, above_least=True),
    "limit": _COUNT,
}
"""Key -> its range; a number that is not here is 0 or more. The last two are a mixture part's."""

CHOICES: dict[str, tuple[int, ...]] = {
    "peft.bits": (16, 8, 4),
    "task.divisor": (1023, 1024),
    "metric.divisor": (1023, 1024),
}
"""Whole numbers of which only these have a meaning."""

MAY_BE_EMPTY = {
    "run_name", "prefix", "task.prompt", "task.choice", "task.suffix", "task.separator",
}  # fmt: skip
"""Texts that may be empty, or that are checked as a name."""


def expected(key: str) -> str | None:
    """Return what a number may be, for `--help`; None where 0 and every number above it will do."""
    if key in CHOICES:
        return "one of " + ", ".join(map(str, CHOICES[key]))
    return str(RANGES[key]) if key in RANGES else None


def check_values(config: Any, prefix: str = "") -> Iterator[str]:
    """Yield a message for each number out of its range and each empty text, of every group.

    Args:
        config: a dataclass of the schema, filled; the options of a user's own part are not ours to know.
        prefix: its key, with a dot behind it.
    """
    for field in fields(config):
        value, key = getattr(config, field.name), f"{prefix}{field.name}"
        if is_dataclass(value):
            yield from check_values(value, f"{key}.")
        else:
            yield from check_value(key, value)


def check_value(key: str, value: Any) -> Iterator[str]:
    """Yield a message where a number is out of its range or a text is empty, also inside a list."""
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int | float):
        yield from _check_number(key, value)
    elif isinstance(value, str) and value == "" and key not in MAY_BE_EMPTY:
        yield f"{key} is empty. Expected a text."
    elif isinstance(value, list):
        if "" in value:
            yield f"{key} holds an empty text: leave it out."
        if any(isinstance(item, list | dict) for item in value):
            yield f"{key}={value}: expected a list without lists in it."
            return
        for item in value:
            yield from check_value(key, None if item == "" else item)


def _check_number(key: str, value: float) -> Iterator[str]:
    if key in CHOICES:
        if value not in CHOICES[key]:
            *first, last = map(str, CHOICES[key])
            yield f"{key}={value}: expected {', '.join(first)} or {last}."
    elif value not in (bounds := RANGES.get(key, _ANY)):
        yield f"{key}={str(value)[:40]}: expected {bounds}."


@cache
def schema_of(target: str) -> type | None:
    """Return the dataclass of a shipped choice, by what its `_target_` names."""
    for schemas in GROUP_SCHEMAS.values():
        for schema in schemas.values():
            if schema()._target_ == target:
                return schema
    return None
