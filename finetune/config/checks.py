"""Settings that contradict each other, all reported in one message.

Types, unknown keys and unknown choices fail earlier, while the config is composed.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from string import Formatter
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from finetune.config.datasets import GROUP_OF_PART, MixtureDataset, OwnFiles, Vqav2Dataset, YoloDataset
from finetune.config.extra import check_extra
from finetune.config.optimizers import check_optimizer
from finetune.config.schema import RunConfig
from finetune.config.values import check_value, check_values, schema_of
from finetune.data.examples.options import AugmentationConfig
from finetune.errors import UserError
from finetune.generation.options import EvaluateWhen
from finetune.model.options import Dtype, PeftMethod, Trainable
from finetune.option import COUNT, Range

_LONGEST_NAME = 255
"""Bytes of a name in a folder that every file system takes."""

_PART_LIMITS = {"weight": Range(0, 1e9, above_least=True), "limit": COUNT}

_PART = re.compile(r"(dataset|task|metric|dataset\.parts\.[^.]+\.(source|task))\.")
"""Where a part of a run is described."""


def check(config: RunConfig, composed: DictConfig) -> None:
    """Raise one error that lists every setting that cannot be.

    Args:
        config: the config as dataclasses.
        composed: the same as Hydra composed it, for keys that were added with `+`.

    Raises:
        UserError: there is at least one.
    """
    problems = [
        *_unknown_keys(composed, config, ""),
        *_values(config),
        *_run(config),
        *_dataset(config.dataset),
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
            "\n".join([f"{len(problems)} settings cannot be:", *(f"  - {line}" for line in problems)])
        )


def check_name(name: str) -> None:
    """Check what is to be a run's folder below `runs_dir`.

    Raises:
        UserError: it leads out of `runs_dir`, or no file system takes it.
    """
    problem = next(_name_problems(name), None)
    if problem is not None:
        raise UserError(f"run_name={name[:80]!r}: {problem}")


def _name_problems(name: str) -> Iterator[str]:
    parts = name.split("/")
    if not name.strip():
        yield "expected a name that is not empty."
    if any(ord(character) < 32 or 127 <= ord(character) < 160 for character in name):
        yield "expected a name without control characters."
    if name.startswith("/") or Path(name).is_absolute():
        yield "expected a name below runs_dir, not an absolute path: runs_dir=FOLDER run_name=NAME."
    elif any(part in {"", ".", ".."} for part in parts):
        yield "expected a name below runs_dir, without empty, `.` or `..` parts."
    if any(len(os.fsencode(part)) > _LONGEST_NAME for part in parts):
        yield f"too long: a file system takes names of at most {_LONGEST_NAME} bytes."


def _unknown_keys(composed: DictConfig, config: Any, prefix: str) -> Iterator[str]:
    """Keys of the composed config for which no dataclass has a field."""
    known = {field.name for field in fields(config)}
    for key in map(str, composed):
        if key not in known:
            yield f"{prefix}{key} is no option: `+` adds only to trainer.extra."
        elif is_dataclass(getattr(config, key, None)) and OmegaConf.is_dict(composed[key]):
            yield from _unknown_keys(composed[key], getattr(config, key), f"{prefix}{key}.")


def _values(config: RunConfig) -> Iterator[str]:
    yield from check_values(config)
    for name in ("dataset", "task", "metric"):
        yield from _nested_targets(getattr(config, name), f"{name}.")


def _nested_targets(node: Any, prefix: str) -> Iterator[str]:
    """`_target_` anywhere but in a part's own place."""
    if is_dataclass(node):
        node = vars(node)
    items: list[tuple[Any, Any]] = list(enumerate(node)) if isinstance(node, list) else []
    items = list(node.items()) if isinstance(node, dict) else items
    for name, value in items:
        if name == "_target_" and not _PART.fullmatch(prefix):
            yield f"{prefix}_target_: only a dataset, a task and a metric name what they call."
        yield from _nested_targets(value, f"{prefix}{name}.")


def _run(config: RunConfig) -> Iterator[str]:
    if config.resume and config.overwrite:
        yield "resume=true keeps the run in the folder, overwrite=true deletes it: choose one."
    if config.run_name is not None:
        for problem in list(_name_problems(config.run_name))[:1]:
            yield f"run_name={config.run_name[:80]!r}: {problem}"
    if config.tracker.report_to not in {"none", "wandb"}:
        yield f"tracker.report_to={config.tracker.report_to}: expected none or wandb."
    if config.tracker.mode not in {None, "online", "offline", "disabled"}:
        yield f"tracker.mode={config.tracker.mode}: expected online, offline or disabled."
    runs_dir = Path(config.runs_dir)
    if runs_dir.exists() and not runs_dir.is_dir():
        yield f"runs_dir={config.runs_dir} is a file. Expected a folder."


def _dataset(dataset: Any) -> Iterator[str]:
    for name in ("columns", "data_files"):
        for node, key in ((dataset, "dataset"), (getattr(dataset, "hub", None), "dataset.hub")):
            yield from _texts_in(getattr(node, name, None), f"{key}.{name}")
    if isinstance(dataset, MixtureDataset):
        yield from _mixture(dataset)
    if isinstance(dataset, OwnFiles):
        yield from _own_files(dataset)
    if isinstance(dataset, Vqav2Dataset):
        yield from _vqav2(dataset)


def _texts_in(values: Any, key: str) -> Iterator[str]:
    """Values of an open dictionary that are neither a text, a list of texts nor null."""
    for name, value in (values or {}).items():
        items = value if isinstance(value, list) else [value]
        if not all(item is None or (isinstance(item, str) and item) for item in items):
            yield f"{key}.{name}={value}: expected a name."


def _mixture(dataset: MixtureDataset) -> Iterator[str]:
    if len(dataset.parts) < 2:
        yield "dataset=mixture needs two parts or more under dataset.parts."
    for name, part in dataset.parts.items():
        if not isinstance(part, dict):
            yield f"dataset.parts.{name}={part}: expected a source and a task."
            continue
        for key in sorted({"source", "task"} - part.keys()):
            yield f"dataset.parts.{name}.{key} is missing: a part has a source and a task."
        for key in sorted(part.keys() - {"source", "task", "weight", "limit"}):
            yield f"dataset.parts.{name}.{key} is no option: source, task, weight, limit."
        for key in part.keys() & {"weight", "limit"}:
            if isinstance(part[key], str | bool):
                yield f"dataset.parts.{name}.{key}={part[key]}: expected a number."
            problems = check_value(key, part[key], _PART_LIMITS[key])
            yield from (f"dataset.parts.{name}.{problem}" for problem in problems)
        for key in part.keys() & {"source", "task"}:
            yield from _part(f"dataset.parts.{name}.{key}", key, part[key])


def _part(key: str, kind: str, node: Any) -> Iterator[str]:
    """Check a part of a mixture as the group of its own that it is."""
    if isinstance(node, dict) and (schema := schema_of(str(node.get("_target_")))):
        try:
            node = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), node))
        except OmegaConfBaseException as error:
            yield f"{key}: {str(error).splitlines()[0]}."
            return
    if not is_dataclass(node):
        if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
            choose = f"'/{GROUP_OF_PART[kind]}@{key}: NAME'"
            yield f"{key}={node}: expected a choice, {choose} in a recipe's defaults."
        return
    group = GROUP_OF_PART[kind]
    problems = [*check_values(node, f"{group}."), *_task(node, group), *_dataset(node)]
    yield from (problem.replace(f"{group}.", f"{key}.") for problem in problems)


def _own_files(dataset: OwnFiles) -> Iterator[str]:
    # Without it a run can still be evaluated.
    if dataset.train is None and dataset.validation is None:
        yield "dataset.train is missing: dataset.train=FILE."
    named = isinstance(dataset, YoloDataset)  # by the file's own `val`
    if dataset.validation is None and dataset.validation_fraction is None and not named:
        yield "Expected one of dataset.validation=FILE and dataset.validation_fraction=0.1."
    if dataset.validation is not None and dataset.validation_fraction is not None:
        yield (
            f"dataset.validation={dataset.validation} and dataset.validation_fraction="
            f"{dataset.validation_fraction} are both given: add dataset.validation_fraction=null."
        )


def _vqav2(dataset: Vqav2Dataset) -> Iterator[str]:
    names = ("questions", "annotations", "image_dir")
    files = [
        (f"dataset.{split}.{name}", getattr(getattr(dataset, split), name))
        for split in ("train", "validation")
        for name in names
    ]
    missing = [key for key, value in files if value is None]
    if 0 < len(missing) < len(files):
        yield f"VQAv2 by files needs all six; missing: {', '.join(missing)}."
    if len(missing) == len(files) and not dataset.root and not dataset.hub.path:
        yield "VQAv2 needs dataset.root=FOLDER, the six files, or dataset.hub.path."
    if dataset.root and len(missing) < len(files):
        yield "dataset.root already names the files: leave dataset.train and .validation out."


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
        yield f"{error}. A column's name stands in braces, a brace of the text is written twice: {{{{ }}}}."
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
        yield "freeze.last_n speaks of the language model, which freeze.language_model=none freezes."


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
