"""Loads a trained model: the result of a run, or any checkpoint with any adapter."""

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import PartialState
from torch import nn
from transformers import PaliGemmaConfig

from finetune.assembly.mask_codec import use_mask_vae
from finetune.assembly.model import check_adapter, half_dtype, load_base, read_adapter_for
from finetune.config.job import Asking
from finetune.config.jobs import Evaluate
from finetune.config.published import fetch_published, is_published
from finetune.config.publishing import Export, Merge
from finetune.errors import UserError
from finetune.model.adapter import load_adapter
from finetune.model.learning import check_one_format
from finetune.model.load import read_object, resolve_path
from finetune.model.options import ModelConfig, PeftConfig, PeftMethod
from finetune.model.origin import pin_revision, read_origin
from finetune.processes import main_first
from finetune.run.checkpoints import check_weights
from finetune.run.folder import RunFolder
from finetune.run.results import read_metrics

FinishedJob = TypeVar("FinishedJob", Evaluate, Export, Merge, Asking)


def open_run(config: FinishedJob, folder: Path) -> RunFolder:
    """Return the folder of the run that a job names, which may be on the Hub.

    Args:
        config: options of the job.
        folder: the one that the command names.

    Raises:
        UserError: the run cannot be downloaded.
    """
    if config.run is not None and is_published(config.run):
        return RunFolder(main_first(lambda: fetch_published(str(config.run))))
    return RunFolder(folder)


def resolve_finished_run(config: FinishedJob, folder: RunFolder, *, as_written: bool = True) -> FinishedJob:
    """Return a config whose model or adapter is a finished run's result, and whose mask VAE is the run's.

    A base on the Hub gets the commit that the run was trained on, or without `run=` today's.

    Args:
        config: options of the job.
        folder: folder of the run.
        as_written: refuse weights that are not those that the run wrote.

    Raises:
        UserError: the run has neither adapter nor model, or their files are not those that it wrote.
    """
    if config.run is None:
        return replace(config, model=pin_revision(config.model))
    if folder.mask_vae.is_file():
        config = use_mask_vae(config, folder.mask_vae)
    digests = read_metrics(folder).get("result", {}).get("sha256")
    for result in (folder.adapter, folder.model):
        if as_written and digests is not None and result.is_dir():
            check_weights(result, digests)
    if folder.adapter.is_dir():
        base = _find_base(config.model, folder.adapter)
        model = pin_revision(base, read_origin(folder.environment))
        return replace(config, model=model, adapter=str(folder.adapter))
    if folder.model.is_dir():
        model = replace(config.model, path=str(folder.model), revision=None)
        # Of an adapter that was merged into its base, the settings are still those of its training.
        peft = config.peft if config.peft.method == PeftMethod.none else PeftConfig()
        return replace(config, model=model, peft=peft)
    raise UserError(
        f"{folder.root} is not finished: it has neither adapter/ nor model/. Continue it with resume=true."
    )


def _find_base(model: ModelConfig, adapter: Path) -> ModelConfig:
    """Return where the base of a run is; that of a published run may have been in a folder elsewhere."""
    if Path(resolve_path(model.path)).is_dir():
        return model
    settings = read_object(adapter / "adapter_config.json")
    base, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    if not isinstance(base, str) or base == model.path or not is_published(base):
        return model
    return replace(model, path=base, revision=model.revision or revision)


def load_trained(config: Evaluate | Export | Merge | Asking, checkpoint: PaliGemmaConfig) -> nn.Module:
    """Load the model with its adapter on this process's device, in evaluation mode."""
    PartialState(cpu=not torch.cuda.is_available())
    half = half_dtype(config.trainer)
    adapter = read_adapter_for(config, checkpoint, is_loaded=False)
    # What was trained is read in `learning_dtype`, so that a finished run has the values of its last
    # evaluation. Without run= it is not known which weights were trained.
    base = load_base(
        checkpoint, config.model, config.freeze, config.peft, half, trained=config.run is not None
    )
    model: nn.Module = base.to(PartialState().device)
    if adapter is not None:
        check_adapter(config, checkpoint, adapter)
        model = load_adapter(base, adapter)
    if half is None:
        check_one_format(model)
    return model.eval()
