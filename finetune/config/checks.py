"""Settings that contradict each other, all reported in one message.

Types, unknown keys and unknown choices fail earlier, while the config is composed.
"""

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from string import Formatter
from typing import Any

from omegaconf import DictConfig, OmegaConf

from finetune.config.extra import check_extra
from finetune.config.jobs import Job
from finetune.config.optimizers import check_optimizer
from finetune.config.schema import RunConfig
from finetune.config.values import check_values, name_problems
from finetune.data.examples.options import AugmentationConfig
from finetune.data.options import GROUP_OF_PART, Source
from finetune.errors import UserError
from finetune.generation.options import EvaluateWhen
from finetune.model.options import Dtype, PeftMethod, Trainable

_PART = re.compile(r"(dataset|task|metric|dataset\.parts\.[^.]+\.(source|task))\.")
"""Prefixes under which a part of a run is described."""


def check(config: Job, composed: DictConfig) -> None:
    """Raise one error that lists every invalid setting.

    Args:
        config: the config as dataclasses.
        composed: the same as Hydra composed it, for keys that were added with `+`.

    Raises:
        UserError: at least one setting is invalid.
    """
    problems = [
        *_unknown_keys(composed, config, ""),
        *_values(config),
        *_run(config),
        *_parts(config.dataset),
        *_task(config.task, "task"),
        *_augmentation(config.augmentation),
        *_learning(config),
        *_peft(config),
        *_trainer(config),
        *_evaluation(config),
    ]
    if len(problems) == 1:
        raise UserError(problems[0])
    if problems:
        raise UserError(
            "\n".join([f"{len(problems)} invalid settings:", *(f"  - {line}" for line in problems)])
        )


def check_name(name: str) -> None:
    """Check the name of a run's folder in `runs_dir`.

    Raises:
        UserError: the path leads out of `runs_dir`, or no file system accepts the name.
    """
    problem = next(name_problems(name), None)
    if problem is not None:
        raise UserError(f"run_name={name[:80]!r}: {problem}")


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
    for name in ("dataset", "task", "metric"):
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
    if config.tracker.report_to not in {"none", "wandb"}:
        yield f"tracker.report_to={config.tracker.report_to}: expected none or wandb."
    if config.tracker.mode not in {None, "online", "offline", "disabled"}:
        yield f"tracker.mode={config.tracker.mode}: expected online, offline or disabled."
    runs_dir = Path(config.runs_dir)
    if runs_dir.exists() and not runs_dir.is_dir():
        yield f"runs_dir={config.runs_dir} is a file. Expected a folder."


def _parts(dataset: Any) -> Iterator[str]:
    """Yield a message for each source or task of a mixture that is not a choice of its group."""
    for name, part in dataset.mixed_parts().items() if isinstance(dataset, Source) else ():
        for key, node in (("source", part.source), ("task", part.task)):
            place = f"dataset.parts.{name}.{key}"
            is_custom = isinstance(node, dict) and isinstance(node.get("_target_"), str)
            if node is not None and not is_dataclass(node) and not is_custom:
                choose = f"'/{GROUP_OF_PART[key]}@{place}: NAME'"
                yield f"{place}={node}: expected a choice, {choose} in a recipe's defaults."
        yield from _task(part.task, f"dataset.parts.{name}.task")


def _augmentation(augmentation: AugmentationConfig) -> Iterator[str]:
    scales = augmentation.resize
    if len(scales) != 2 or not scales[0] <= scales[1]:
        yield f"augmentation.resize={scales}: expected [smallest,largest], both more than 0."


def _task(task: Any, key: str) -> Iterator[str]:
    for name in ("prompt", "choice", "suffix"):
        template = getattr(task, name, None)
        if isinstance(template, str):
            yield from (f"{key}.{name}={template!r}: {p}" for p in _template_problems(template))


def _template_problems(template: str) -> Iterator[str]:
    try:
        columns = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        yield f"{error}. Write a column's name in braces, and a brace of the text twice: {{{{ }}}}."
        return
    for name in columns:
        if not name or name.isdecimal() or "." in name or "[" in name:
            yield f"expected a column's name in the braces, got {{{name}}}."


def _learning(config: RunConfig) -> Iterator[str]:
    freeze = config.freeze
    if freeze.multi_modal_projector == Trainable.attention:
        yield "freeze.multi_modal_projector=attention: the projector is one linear layer; all or none."
    towers = (freeze.vision_tower, freeze.multi_modal_projector, freeze.language_model)
    if all(tower == Trainable.none for tower in towers) and not config.peft.modules_to_save:
        yield "Nothing would learn: `freeze` freezes all three towers."
    if config.model.dtype == Dtype.float16 and config.trainer.bf16:
        yield (
            "model.dtype=float16 with trainer.bf16=true mixes two half precisions: choose trainer.fp16=true"
            " trainer.bf16=false, or model.dtype=bfloat16."
        )
    if freeze.last_n is not None and freeze.language_model == Trainable.none:
        yield "freeze.last_n applies to the language model, but freeze.language_model=none freezes it."


def _peft(config: RunConfig) -> Iterator[str]:
    peft = config.peft
    if peft.method == PeftMethod.none:
        if peft.bits != 16:
            yield f"peft.bits={peft.bits}: quantised weights cannot learn themselves; peft=qlora can."
        if peft.use_dora or peft.use_rslora or peft.modules_to_save:
            yield "peft.use_dora, use_rslora and modules_to_save need an adapter: peft=lora."
    elif not peft.target_modules:
        yield "peft.target_modules is empty: no layer would get an adapter."
    if peft.bits != 16 and not peft.quantize:
        yield f"peft.bits={peft.bits} with peft.quantize=[]: name the towers to quantise."


def _trainer(config: RunConfig) -> Iterator[str]:
    trainer = config.trainer
    if trainer.bf16 and trainer.fp16:
        yield "trainer.bf16 and trainer.fp16 are both true: choose one."
    if trainer.global_batch_size is not None and trainer.gradient_accumulation_steps != 1:
        yield (
            "trainer.gradient_accumulation_steps follows from trainer.global_batch_size: give one of them, "
            "the other as 1 or null."
        )
    if trainer.dataloader_prefetch_factor is not None and trainer.dataloader_num_workers == 0:
        yield "trainer.dataloader_prefetch_factor needs workers: trainer.dataloader_num_workers=4."
    if trainer.warmup_steps >= 1 and trainer.warmup_steps % 1 > 0:
        yield (
            f"trainer.warmup_steps={trainer.warmup_steps}: expected a share of all steps below 1, or a "
            "whole number of steps."
        )
    if trainer.max_steps == 0:
        yield "trainer.max_steps=0: expected 1 or more, or -1 for trainer.num_train_epochs."
    yield from check_optimizer(trainer)
    yield from check_extra(trainer.extra)


def _evaluation(config: RunConfig) -> Iterator[str]:
    evaluation = config.evaluation
    if evaluation.strategy == EvaluateWhen.steps and evaluation.steps is None:
        yield "evaluation.strategy=steps: say how many, evaluation.steps=500."
    if evaluation.strategy != EvaluateWhen.steps and evaluation.steps is not None:
        yield "evaluation.steps is given: it needs evaluation.strategy=steps."
    if evaluation.metric_for_best_model and evaluation.strategy == EvaluateWhen.no:
        yield "evaluation.metric_for_best_model compares evaluations: evaluation.strategy=epoch."
    if evaluation.early_stopping_patience and not evaluation.metric_for_best_model:
        yield "evaluation.early_stopping_patience needs evaluation.metric_for_best_model."
