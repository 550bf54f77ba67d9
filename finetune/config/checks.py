"""Settings that contradict each other, all reported in one message.

Types, unknown keys and unknown choices fail earlier, while the config is composed.
"""

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from finetune.config.extra import check_extra
from finetune.config.job import Job
from finetune.config.optimizers import check_optimizer
from finetune.config.schema import RunConfig
from finetune.config.values import check_values, name_problems
from finetune.data.options import GROUP_OF_PART, Source
from finetune.errors import UserError
from finetune.model.options import Dtype, Trainable
from finetune.tasks.grammar import Grammar, check_grammar

_PART = re.compile(r"(dataset|task|metric|metrics\.[^.]+|dataset\.parts\.[^.]+\.(source|task))\.")
"""Prefixes under which a part of a run is described."""


def check(config: Job, composed: DictConfig, name: str | None = None) -> None:
    """Raise one error that lists every invalid setting.

    Args:
        config: the config as dataclasses.
        composed: the same as Hydra composed it, for keys that were added with `+`.
        name: name of the run's new folder; None for a run that there is.

    Raises:
        UserError: at least one setting is invalid.
    """
    problems = [
        *_unknown_keys(composed, config, ""),
        *_values(config),
        *_run(config),
        *_parts(config.dataset),
        *_metrics(config.metrics),
        *_grammar(config),
        *_across(config),
        *([] if name is None else name_problems(name)),
    ]
    if len(problems) == 1:
        raise UserError(problems[0])
    if problems:
        raise UserError(
            "\n".join([f"{len(problems)} invalid settings:", *(f"  - {line}" for line in problems)])
        )


def _unknown_keys(composed: DictConfig, config: Any, prefix: str) -> Iterator[str]:
    """Yield a message for each key of the composed config that is not a field of its dataclass."""
    known = {field.name for field in fields(config)}
    for key in map(str, composed):
        if key not in known:
            yield f"{prefix}{key} is not an option: `+` adds only to trainer.extra."
        elif is_dataclass(getattr(config, key, None)) and OmegaConf.is_dict(composed[key]):
            yield from _unknown_keys(composed[key], getattr(config, key), f"{prefix}{key}.")


def _values(config: RunConfig) -> Iterator[str]:
    yield from check_values(config)
    for name in ("dataset", "task", "metric", "metrics"):
        yield from _nested_targets(getattr(config, name), f"{name}.")


def _nested_targets(node: Any, prefix: str) -> Iterator[str]:
    """Yield a message for each `_target_` that is not directly under a dataset, a task or a metric."""
    # Only these are called (assembly/custom.py); one nested deeper would be passed on as plain data.
    if is_dataclass(node):
        node = vars(node)
    items: list[tuple[Any, Any]] = list(enumerate(node)) if isinstance(node, list) else []
    items = list(node.items()) if isinstance(node, dict) else items
    for name, value in items:
        if name == "_target_" and not _PART.fullmatch(prefix):
            yield f"{prefix}_target_: only a dataset, a task and a metric name what they call."
        yield from _nested_targets(value, f"{prefix}{name}.")


def _run(config: RunConfig) -> Iterator[str]:
    runs_dir = Path(config.runs_dir)
    if runs_dir.exists() and not runs_dir.is_dir():
        yield f"runs_dir={config.runs_dir} is a file. Expected a folder."


def _parts(dataset: Any) -> Iterator[str]:
    """Yield a message for each source or task of a mixture that is not a choice of its group."""
    for name, part in dataset.mixed_parts().items() if isinstance(dataset, Source) else ():
        for key, node in (("source", part.source), ("task", part.task)):
            place = f"dataset.parts.{name}.{key}"
            if node is not None and not _is_part(node):
                choose = f"'/{GROUP_OF_PART[key]}@{place}: NAME'"
                yield f"{place}={node}: expected a choice, {choose} in a recipe's defaults."


def _metrics(metrics: dict[str, Any]) -> Iterator[str]:
    """Yield what should describe a metric, but is not a choice of the group."""
    for name, node in metrics.items():
        if not _is_part(node):
            choose = f"metrics=[{name}], or '/metric@metrics.{name}: NAME' in a recipe's defaults"
            yield f"metrics.{name}={node}: expected a choice, {choose}."


def _is_part(node: Any) -> bool:
    """Whether a node is a choice of its group, or a custom part."""
    return is_dataclass(node) or (isinstance(node, dict) and isinstance(node.get("_target_"), str))


def _grammar(config: RunConfig) -> Iterator[str]:
    """Yield a message for each task that the grammar of answers does not fit."""
    grammar, dataset = config.evaluation.grammar, config.dataset
    parts = dataset.mixed_parts() if isinstance(dataset, Source) else {}
    tasks = {f"dataset.parts.{name}.task: ": part.task for name, part in parts.items()} or {"": config.task}
    for place, task in tasks.items():
        # A custom task is checked once it is built.
        if grammar != Grammar.none and is_dataclass(task):
            try:
                check_grammar(task, grammar)
            except UserError as error:
                yield f"{place}{error}"


def _across(config: RunConfig) -> Iterator[str]:
    """Yield options of several groups that contradict each other; `problems` of each has its own."""
    freeze = config.freeze
    towers = (freeze.vision_tower, freeze.multi_modal_projector, freeze.language_model)
    if all(tower == Trainable.none for tower in towers) and not config.peft.modules_to_save:
        yield "Nothing would learn: `freeze` freezes all three towers."
    if config.model.dtype == Dtype.float16 and config.trainer.bf16:
        yield (
            "model.dtype=float16 with trainer.bf16=true mixes two half precisions: choose trainer.fp16=true"
            " trainer.bf16=false, or model.dtype=bfloat16."
        )
    if config.adapter_revision is not None and (config.adapter is None or Path(config.adapter).is_dir()):
        yield (
            f"adapter_revision={config.adapter_revision} is of an adapter on the Hub, but "
            f"adapter={config.adapter or 'null'}: leave it out."
        )
    yield from check_optimizer(config.trainer)
    yield from check_extra(config.trainer.extra)
