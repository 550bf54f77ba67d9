"""The attention kernel of a training: measured once, recorded, and kept when the run is resumed."""

import logging
from pathlib import Path

from torch import nn

from finetune.assembly.model import half_dtype
from finetune.config.schema import RunConfig
from finetune.example import Batch
from finetune.model.forward import to_device
from finetune.model.kernels import AttentionChoice, choose_kernel, use_kernel
from finetune.processes import on_main
from finetune.run.environment import read_environment

log = logging.getLogger(__name__)


def settle_attention(
    config: RunConfig, model: nn.Module, batch: Batch, recorded: Path | None
) -> AttentionChoice:
    """Choose the kernel that trains, in the main process, and use it in all.

    Args:
        config: `model.attention` and `trainer` are read.
        model: on its device; changed in place.
        batch: the first one.
        recorded: `environment.json` of the run that is resumed.

    Raises:
        UserError: a kernel was asked for by name that cannot be used here.
    """

    def choose() -> AttentionChoice:
        kept = None if recorded is None else read_kernel(recorded) or ""
        device = next(model.parameters()).device
        half = half_dtype(config.trainer)
        return choose_kernel(model, to_device(batch, device), half, config.model.attention, kept)

    choice = on_main(choose)
    use_kernel(model, choice.kernel)
    for kernel, why in choice.refused.items():
        log.info("attention kernel %s is left out: %s", kernel, why)
    return choice


def read_kernel(environment: Path) -> str | None:
    """Return the kernel that an `environment.json` records; None if it is not there."""
    attention = read_environment(environment).get("attention")
    kernel = attention.get("kernel") if isinstance(attention, dict) else None
    return kernel if isinstance(kernel, str) else None
