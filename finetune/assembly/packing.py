"""Whether a training packs the examples of a forward pass into one row."""

import numpy as np
from torch import nn

from finetune.assembly.grouping import measure_padding
from finetune.config.schema import RunConfig
from finetune.errors import UserError
from finetune.model.attention import explain_mask
from finetune.model.features import drops_activations
from finetune.model.last_layer import compute_supervised_rows
from finetune.model.packing import use_packing
from finetune.speed import Technique, switched_off
from finetune.training.trainer import PaliGemmaTrainer

_LEAST = 0.02
"""Share of padding from which packing is on by itself: it saves hardly more than that share of the time."""


def settle_packing(config: RunConfig, trainer: PaliGemmaTrainer, lengths: np.ndarray | None) -> Technique:
    """Let a model train on packed rows where that pays, or where it was asked for.

    Args:
        config: `trainer.speed` and the model's dropout are read.
        trainer: its model has the attention kernel that trains; changed in place.
        lengths: see `Data.lengths`.

    Raises:
        UserError: it was asked for and cannot be done.
    """
    name, asked = "packing", config.trainer.speed.packing
    if asked is False:
        return switched_off(name)
    language_model = compute_supervised_rows(trainer.model)
    if (obstacle := explain_mask(language_model, 1 if lengths is None else int(lengths.min()))) is not None:
        if asked:
            raise UserError(
                f"trainer.speed.packing=true cannot be used here: {obstacle}. Give a kernel that needs no "
                "mask, such as model.attention=split_eager, or leave packing as null."
            )
        return Technique(name, False, obstacle)
    share = None if lengths is None else measure_padding(lengths, trainer.order, trainer.passes)
    if not asked and (reason := _find_reason(config, language_model, share)):
        return Technique(name, False, reason)
    use_packing(trainer.model)
    saved = "" if share is None else f": {100 * share:.1f} % of the tokens would be padding"
    return Technique(name, True, f"the examples of a forward pass in one row{saved}")


def _find_reason(config: RunConfig, language_model: nn.Module, share: float | None) -> str | None:
    """Return why packing is off unless it is asked for; None: it is on."""
    if next(language_model.parameters()).device.type != "cpu":
        return "attention would take the examples one by one, in many small kernels"
    if config.trainer.speed.compile:
        return "layers are compiled for rows of one length (trainer.speed.compile)"
    if config.model.llm_dropout > 0 or drops_activations(language_model):
        return "dropout would drop other activations"
    if share is None:
        return "the lengths of the examples are not known"
    return None if share > _LEAST else f"{100 * share:.1f} % of the tokens are padding: too few"
