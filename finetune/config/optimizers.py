"""Optimizers and schedules of transformers by name, and what each of them needs."""

from collections.abc import Iterator
from importlib.util import find_spec

from finetune.errors import suggest
from finetune.training.options import TrainerConfig

OPTIMIZERS: dict[str, str] = {
    "adamw_torch": "torch", "adamw_torch_fused": "torch", "adafactor": "torch", "sgd": "torch",
    "adagrad": "torch",
    "rmsprop": "torch", "adamw_8bit": "bitsandbytes", "adamw_bnb_8bit": "bitsandbytes",
    "paged_adamw_8bit": "bitsandbytes", "paged_adamw_32bit": "bitsandbytes", "ademamix": "bitsandbytes",
    "ademamix_8bit": "bitsandbytes", "paged_ademamix_8bit": "bitsandbytes",
    "paged_ademamix_32bit": "bitsandbytes",
    "lion_8bit": "bitsandbytes", "lion_32bit": "bitsandbytes", "paged_lion_8bit": "bitsandbytes",
    "paged_lion_32bit": "bitsandbytes", "rmsprop_bnb": "bitsandbytes", "rmsprop_bnb_8bit": "bitsandbytes",
    "rmsprop_bnb_32bit": "bitsandbytes", "adamw_torch_4bit": "torchao", "adamw_torch_8bit": "torchao",
    "schedule_free_adamw": "schedulefree", "schedule_free_radam": "schedulefree",
    "schedule_free_sgd": "schedulefree",
}  # fmt: skip
"""Name -> its package. Those that choose parameters themselves are left out: `freeze` chooses them."""

SCHEDULES: dict[str, tuple[str, ...]] = {
    "cosine": (), "linear": (), "constant": (), "constant_with_warmup": (), "cosine_with_restarts": (),
    "polynomial": (), "inverse_sqrt": (), "warmup_stable_decay": ("num_decay_steps",),
    "cosine_with_min_lr": ("min_lr", "min_lr_rate"), "cosine_warmup_with_min_lr": ("min_lr", "min_lr_rate"),
}  # fmt: skip
"""Name -> `lr_scheduler_kwargs` of which one is required. Those that follow a score are left out."""


def check_optimizer(trainer: TrainerConfig) -> Iterator[str]:
    """Yield a message for an unknown optimizer or schedule, or one whose package or argument is missing.

    Args:
        trainer: `optim`, `lr_scheduler_type` and `extra` are read.
    """
    optim, schedule = trainer.optim, trainer.lr_scheduler_type
    if optim not in OPTIMIZERS:
        yield f"trainer.optim={optim}: {_expected(optim, OPTIMIZERS)}"
    elif find_spec(OPTIMIZERS[optim]) is None:
        package = OPTIMIZERS[optim]
        yield f"trainer.optim={optim} needs the package {package}: pip install {package}."
    if schedule not in SCHEDULES:
        yield f"trainer.lr_scheduler_type={schedule}: {_expected(schedule, SCHEDULES)}"
        return
    needed, given = SCHEDULES[schedule], trainer.extra.get("lr_scheduler_kwargs") or {}
    if needed and not set(needed) & set(given):
        yield (
            f"trainer.lr_scheduler_type={schedule} needs {' or '.join(needed)}: "
            f"'+trainer.extra.lr_scheduler_kwargs={{{needed[0]}: VALUE}}'."
        )


def _expected(name: str, known: dict[str, str] | dict[str, tuple[str, ...]]) -> str:
    near, names = suggest(name, [*known]), ", ".join(known)
    return f"transformers has none of that name that fits here.{near} Known: {names}."
