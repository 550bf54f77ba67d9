"""Loads a trained model: the result of a run, or any checkpoint with any adapter."""

from dataclasses import replace
from typing import TypeVar

import torch
from accelerate import PartialState
from torch import nn
from transformers import PaliGemmaConfig

from finetune.assembly.mask_codec import use_mask_vae
from finetune.assembly.model import half_dtype, load_base
from finetune.config.jobs import Evaluate, Merge, Predict
from finetune.errors import UserError
from finetune.model.adapter import load_adapter
from finetune.model.learning import check_one_format
from finetune.run.checkpoints import check_weights
from finetune.run.folder import RunFolder
from finetune.run.results import read_metrics

FinishedJob = TypeVar("FinishedJob", Evaluate, Merge, Predict)


def resolve_finished_run(config: FinishedJob, folder: RunFolder) -> FinishedJob:
    """Return a config whose model or adapter is a finished run's result, and whose mask VAE is the run's.

    Args:
        config: options of the job; returned unchanged without `run=`.
        folder: folder of the run.

    Raises:
        UserError: the run has neither adapter nor model, or their files are not those that it wrote.
    """
    if config.run is None:
        return config
    if folder.mask_vae.is_file():
        config = use_mask_vae(config, folder.mask_vae)
    digests = read_metrics(folder).get("result", {}).get("sha256")
    for result in (folder.adapter, folder.model):
        if digests is not None and result.is_dir():
            check_weights(result, digests)
    if folder.adapter.is_dir():
        return replace(config, adapter=str(folder.adapter))
    if folder.model.is_dir():
        return replace(config, model=replace(config.model, path=str(folder.model), revision=None))
    raise UserError(
        f"{folder.root} is not finished: it has neither adapter/ nor model/. Continue it with resume=true."
    )


def load_trained(config: Evaluate | Merge | Predict, checkpoint: PaliGemmaConfig) -> nn.Module:
    """Load the model with its adapter on this process's device, in evaluation mode."""
    PartialState(cpu=not torch.cuda.is_available())
    half = half_dtype(config.trainer)
    # What was trained is read in `learning_dtype`, so that a finished run has the values of its last
    # evaluation. Without run= it is not known which weights were trained.
    base = load_base(
        checkpoint, config.model, config.freeze, config.peft, half, trained=config.run is not None
    )
    model: nn.Module = base.to(PartialState().device)
    if config.adapter is not None:
        model = load_adapter(base, config.adapter, config.peft.bits)
    if half is None:
        check_one_format(model)
    return model.eval()
