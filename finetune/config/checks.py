"""Settings that contradict each other, all reported in one message.

Types, unknown keys and unknown choices fail earlier, while the config is composed.
"""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from finetune.config.datasets import MixtureDataset, OwnFiles, Vqav2Dataset, YoloDataset
from finetune.config.schema import (
    AugmentationConfig,
    Learning,
    PeftMethod,
    RunConfig,
    Strategy,
    TrainerConfig,
)
from finetune.errors import UserError

_OWNED_ARGUMENTS = {
    "output_dir": "runs_dir and run_name",
    "seed": "seed",
    "eval_strategy": "evaluation.strategy",
    "eval_steps": "evaluation.steps",
    "per_device_eval_batch_size": "evaluation.batch_size",
    "metric_for_best_model": "evaluation.metric_for_best_model",
    "load_best_model_at_end": "evaluation.metric_for_best_model",
    "report_to": "tracker",
    "label_smoothing_factor": "trainer.loss.label_smoothing (transformers' own does not shift the labels)",
    "gradient_checkpointing": "trainer.activation_checkpointing",
    "remove_unused_columns": "nothing: the prefix mask is lost without its columns",
    "save_strategy": "trainer.save_steps",
    "train_sampling_strategy": "nothing: the order is a function of seed and epoch",
    "use_liger_kernel": "nothing: its PaliGemma patch does not fit this transformers",
}


def check(config: RunConfig, composed: DictConfig) -> None:
    """Raise one error that lists every contradiction.

    Args:
        config: the config as dataclasses.
        composed: the same as Hydra composed it, for keys that were added with `+`.

    Raises:
        UserError: there is at least one.
    """
    problems = [
        *_unknown_keys(composed, config, ""),
        *_run(config),
        *_dataset(config.dataset),
        *_augmentation(config.augmentation),
        *_numbers(config),
        *_learning(config),
        *_peft(config),
        *_trainer(config),
        *_evaluation(config),
    ]
    if len(problems) == 1:
        raise UserError(problems[0])
    if problems:
        raise UserError("\n".join([f"{len(problems)} settings cannot be:", *_bullets(problems)]))


def _bullets(lines: list[str]) -> Iterator[str]:
    return (f"  - {line}" for line in lines)


def _unknown_keys(composed: DictConfig, config: Any, prefix: str) -> Iterator[str]:
    """Keys of the composed config for which no dataclass has a field."""
    known = {field.name for field in fields(config)}
    for key in map(str, composed):
        if key not in known:
            yield f"{prefix}{key} is no option: `+` adds only to trainer.extra."
        elif is_dataclass(getattr(config, key, None)) and OmegaConf.is_dict(composed[key]):
            yield from _unknown_keys(composed[key], getattr(config, key), f"{prefix}{key}.")


def _run(config: RunConfig) -> Iterator[str]:
    if config.resume and config.overwrite:
        yield "resume=true keeps the run in the folder, overwrite=true deletes it: choose one."
    if config.run and config.adapter:
        yield "run=FOLDER brings its own adapter: leave adapter= out."
    if config.tracker.report_to not in {"none", "wandb"}:
        yield f"tracker.report_to={config.tracker.report_to}: expected none or wandb."


def _dataset(dataset: Any) -> Iterator[str]:
    if isinstance(dataset, MixtureDataset):
        yield from _mixture(dataset)
    if isinstance(dataset, OwnFiles):
        yield from _own_files(dataset)
    if isinstance(dataset, Vqav2Dataset):
        yield from _vqav2(dataset)


def _mixture(dataset: MixtureDataset) -> Iterator[str]:
    if len(dataset.parts) < 2:
        yield "dataset=mixture needs two parts or more under dataset.parts."
    for name, part in dataset.parts.items():
        for key in sorted({"source", "task"} - part.keys()):
            yield f"dataset.parts.{name}.{key} is missing: a part has a source and a task."
        for key in sorted(part.keys() - {"source", "task", "weight", "limit"}):
            yield f"dataset.parts.{name}.{key} is no option: source, task, weight, limit."
        for key in ("weight", "limit"):
            if part.get(key) is not None and part[key] <= 0:
                yield f"dataset.parts.{name}.{key}={part[key]}: expected more than 0."
        yield from (f"{name}: {problem}" for problem in _dataset(part.get("source")))


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
    fraction = dataset.validation_fraction
    if fraction is not None and not 0 < fraction < 1:
        yield f"dataset.validation_fraction={fraction}: expected a share between 0 and 1."


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
    for name in ("flip", "min_visible", "brightness", "contrast", "saturation"):
        value = getattr(augmentation, name)
        if not 0 <= value <= 1:
            yield f"augmentation.{name}={value}: expected 0 to 1."
    if not 0 < augmentation.crop <= 1:
        yield f"augmentation.crop={augmentation.crop}: expected more than 0, and at most 1."
    if "" in (augmentation.flip_words or []):
        yield "augmentation.flip_words holds an empty word, which is in every text: leave it out."
    scales = augmentation.resize
    if len(scales) != 2 or not 0 < scales[0] <= scales[1] < float("inf"):
        yield f"augmentation.resize={scales}: expected [smallest,largest], both more than 0."


def _numbers(config: RunConfig) -> Iterator[str]:
    trainer, evaluation, peft = config.trainer, config.evaluation, config.peft
    at_least_one = {
        "trainer.global_batch_size": trainer.global_batch_size,
        "trainer.per_device_train_batch_size": trainer.per_device_train_batch_size,
        "trainer.gradient_accumulation_steps": trainer.gradient_accumulation_steps,
        "trainer.limit": trainer.limit,
        "trainer.logging_steps": trainer.logging_steps,
        "trainer.save_steps": trainer.save_steps,
        "evaluation.steps": evaluation.steps,
        "evaluation.limit": evaluation.limit,
        "evaluation.batch_size": evaluation.batch_size,
        "evaluation.max_new_tokens": evaluation.max_new_tokens,
        "evaluation.num_beams": evaluation.num_beams,
        "evaluation.early_stopping_patience": evaluation.early_stopping_patience,
        "peft.r": peft.r,
        "freeze.last_n": config.freeze.last_n,
    }
    for key, value in at_least_one.items():
        if value is not None and value < 1:
            yield f"{key}={value}: expected at least 1."
    for key, share in {
        "model.llm_dropout": config.model.llm_dropout,
        "trainer.loss.label_smoothing": trainer.loss.label_smoothing,
        "peft.lora_dropout": peft.lora_dropout,
    }.items():
        if not 0 <= share < 1:
            yield f"{key}={share}: expected 0 or more, and less than 1."
    if trainer.max_steps < 1 and trainer.num_train_epochs <= 0:
        yield f"trainer.num_train_epochs={trainer.num_train_epochs}: expected more than 0."
    if trainer.learning_rate <= 0:
        yield f"trainer.learning_rate={trainer.learning_rate}: expected more than 0."
    if config.collator.max_text_length < 4:
        yield "collator.max_text_length: BOS, newline, a suffix and EOS need at least 4 tokens."


def _learning(config: RunConfig) -> Iterator[str]:
    freeze = config.freeze
    if freeze.multi_modal_projector == Learning.attention:
        yield "freeze.multi_modal_projector=attention: the projector is one linear layer; all or none."
    towers = (freeze.vision_tower, freeze.multi_modal_projector, freeze.language_model)
    if all(tower == Learning.none for tower in towers) and not config.peft.modules_to_save:
        yield "Nothing would learn: `freeze` freezes all three towers."
    if freeze.last_n is not None and freeze.language_model == Learning.none:
        yield "freeze.last_n speaks of the language model, which freeze.language_model=none freezes."


def _peft(config: RunConfig) -> Iterator[str]:
    peft = config.peft
    if peft.bits not in {4, 8, 16}:
        yield f"peft.bits={peft.bits}: expected 16, 8 or 4."
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
    own = {field.name for field in fields(TrainerConfig)}
    for name in map(str, trainer.extra):
        if name in own:
            yield f"trainer.extra.{name}: set trainer.{name} instead."
        elif name in _OWNED_ARGUMENTS:
            yield f"trainer.extra.{name}: set {_OWNED_ARGUMENTS[name]} instead."


def _evaluation(config: RunConfig) -> Iterator[str]:
    evaluation = config.evaluation
    if evaluation.strategy == Strategy.steps and evaluation.steps is None:
        yield "evaluation.strategy=steps: say how many, evaluation.steps=500."
    if evaluation.strategy != Strategy.steps and evaluation.steps is not None:
        yield "evaluation.steps is given: it needs evaluation.strategy=steps."
    if evaluation.metric_for_best_model and evaluation.strategy == Strategy.no:
        yield "evaluation.metric_for_best_model compares evaluations: evaluation.strategy=epoch."
    if evaluation.early_stopping_patience and not evaluation.metric_for_best_model:
        yield "evaluation.early_stopping_patience needs evaluation.metric_for_best_model."
