"""`trainer.extra`: which other arguments of transformers may be set, and why the rest may not."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from importlib.util import find_spec
from typing import Any

from finetune.errors import suggest
from finetune.option import KIND_NAMES
from finetune.training.options import TrainerConfig

ALLOWED: dict[str, tuple[type, ...]] = {
    "lr_scheduler_kwargs": (dict,),
    "optim_args": (str,),
    "tf32": (bool,),
    "torch_compile": (bool,),
    "torch_compile_backend": (str,),
    "torch_compile_mode": (str,),
    "torch_empty_cache_steps": (int,),
    "neftune_noise_alpha": (int, float),
    "logging_first_step": (bool,),
    "full_determinism": (bool,),
    "dataloader_persistent_workers": (bool,),
    "dataloader_multiprocessing_context": (str,),
    "ddp_bucket_cap_mb": (int,),
    "ddp_broadcast_buffers": (bool,),
    "ddp_static_graph": (bool,),
    "ddp_backend": (str,),
    "ddp_timeout": (int,),
    "fsdp": (str, bool),
    "fsdp_config": (dict, str),
    "deepspeed": (dict, str),
    "debug": (str,),
}
"""Argument -> the types of its values. Numbers are more than 0."""

_CHOICES = {
    "ddp_backend": ("nccl", "gloo", "mpi", "ccl", "hccl", "cncl", "mccl"),
    "dataloader_multiprocessing_context": ("fork", "spawn", "forkserver"),
}

_PACKAGES = {"deepspeed": "deepspeed"}

OWNED: dict[str, str] = {
    "output_dir": "runs_dir and run_name",
    "run_name": "run_name",
    "seed": "seed",
    "data_seed": "seed",
    "eval_strategy": "evaluation.strategy",
    "eval_steps": "evaluation.steps",
    "per_device_eval_batch_size": "evaluation.batch_size",
    "metric_for_best_model": "evaluation.metric_for_best_model",
    "load_best_model_at_end": "evaluation.metric_for_best_model",
    "greater_is_better": "evaluation.metric_for_best_model (the metric knows which way is better)",
    "report_to": "tracker",
    "project": "tracker.project",
    "label_smoothing_factor": "trainer.loss.label_smoothing (transformers' own does not shift the labels)",
    "gradient_checkpointing": "trainer.activation_checkpointing",
    "gradient_checkpointing_kwargs": "trainer.activation_checkpointing",
    "activation_checkpointing_kwargs": "trainer.activation_checkpointing",
    "auto_find_batch_size": "trainer.per_device_train_batch_size (a run's batch never changes by itself)",
    "save_strategy": "trainer.save_steps",
    "logging_strategy": "trainer.logging_steps",
    "resume_from_checkpoint": "resume=true",
    "use_cpu": "CUDA_VISIBLE_DEVICES= in the environment",
    "local_rank": "nothing: torchrun does",
    "push_to_hub": "nothing: a run stays on this machine",
    "save_only_model": "nothing: a checkpoint without its optimizer resumes to other weights",
    "ignore_data_skip": "nothing: a resumed run would see the same examples twice",
    "remove_unused_columns": "nothing: the prefix mask is lost without its columns",
    "train_sampling_strategy": "nothing: the order is a function of seed and epoch",
    "dataloader_in_order": "nothing: the order is a function of seed and epoch",
    "dataloader_drop_last": "nothing: every batch is full",
    "accelerator_config": "nothing: batches are split among the processes here",
    "parallelism_config": "nothing: batches are split among the processes here",
    "average_tokens_across_devices": "nothing: the loss is averaged over all devices",
    "bf16_full_eval": "model.dtype",
    "fp16_full_eval": "model.dtype",
    "use_liger_kernel": "nothing: its PaliGemma patch does not fit this transformers",
    "liger_kernel_config": "nothing: its PaliGemma patch does not fit this transformers",
    "optim_target_modules": "freeze and peft, which say what learns",
    "logging_nan_inf_filter": "nothing: a loss of NaN stops the run",
    "log_level": "FINETUNE_DEBUG=1 in the environment",
    "log_level_replica": "FINETUNE_DEBUG=1 in the environment",
}
"""Argument -> the option that sets it; `nothing: REASON` where none does."""

_OWNED_PREFIXES = {
    "hub_": "nothing: a run stays on this machine",
    "trackio_": "tracker",
    "eval_": "evaluation",
    "do_": "the job: train, evaluate, predict",
}

_REST = {
    "prediction_loss_only", "include_for_metrics", "batch_eval_metrics", "use_cache", "save_on_each_node",
    "restore_callback_states_from_checkpoint", "enable_jit_checkpoint", "disable_tqdm", "label_names",
    "length_column_name", "ddp_find_unused_parameters", "dataloader_pin_memory", "log_on_each_node",
    "include_num_input_tokens_seen", "skip_memory_metrics",
}  # fmt: skip
"""Arguments with a fixed value, for which no reason is given."""


def check_extra(extra: Mapping[Any, Any]) -> Iterator[str]:
    """Yield a message for each entry of `trainer.extra` that is not allowed.

    Args:
        extra: name -> value.
    """
    for name, value in extra.items():
        key = f"trainer.extra.{name}"
        owner = find_owner(str(name))
        if owner is not None:
            reason = owner.removeprefix("nothing: ")
            yield f"{key} cannot be set: {reason}." if reason != owner else f"{key}: set {owner} instead."
        elif name not in ALLOWED:
            yield f"trainer.extra: transformers has no argument {name}.{suggest(str(name), [*ALLOWED])}"
        elif problem := _check_value(str(name), value):
            yield f"{key}={value}: {problem}"


def find_owner(name: str) -> str | None:
    """Return the option that replaces an argument of transformers; None if it may be set."""
    if name in {field.name for field in fields(TrainerConfig)}:
        return f"trainer.{name}"
    if name in OWNED:
        return OWNED[name]
    prefix = next((prefix for prefix in _OWNED_PREFIXES if name.startswith(prefix)), None)
    if prefix is not None:
        return _OWNED_PREFIXES[prefix]
    return "nothing: it is fixed here" if name in _REST else None


def _check_value(name: str, value: Any) -> str | None:
    kinds = ALLOWED[name]
    is_kind = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
    if not is_kind:
        return f"expected {' or '.join(KIND_NAMES[kind] for kind in kinds)}."
    if isinstance(value, int | float) and not isinstance(value, bool) and not 0 < value < 1e9:
        return "expected more than 0, and less than 1e9."
    if name in _CHOICES and value not in _CHOICES[name]:
        return f"expected one of {', '.join(_CHOICES[name])}."
    if value == "":
        return "expected a text that is not empty."
    package = _PACKAGES.get(name)
    if package is not None and find_spec(package) is None:
        return f"the package {package} is not installed: pip install {package}."
    return None
