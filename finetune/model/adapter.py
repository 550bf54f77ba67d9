"""A trained adapter from a folder or the Hub: checked against the base, loaded, and read back."""

import re
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from huggingface_hub.errors import EntryNotFoundError
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PaliGemmaForConditionalGeneration

from finetune.errors import UserError
from finetune.model.layouts import rename_settings, rename_weights
from finetune.model.load import find_file, list_differences, read_object
from finetune.model.options import PeftConfig
from finetune.model.origin import Origin, find_commit
from finetune.model.provenance import Provenance, read_provenance
from finetune.model.weights import copy_weights, name_weights

_NAME = "default"
_OF_THE_RUN = {
    "auto_mapping",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "exclude_modules",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_dropout",
    "modules_to_save",
    "peft_version",
    "revision",
    "target_modules",
    "task_type",
}
"""Fields of an adapter's settings that may differ in a run that continues it: they concern the run
alone, or show in the names of the weights."""

_INITS = (True, False, "gaussian", "eva", "orthogonal")
"""Initial values of an adapter that leave its base as it is; PiSSA and others train on another one."""

_OPTIONS = {field.name for field in fields(PeftConfig)}


@dataclass(frozen=True)
class TrainedAdapter:
    """The contents of an adapter's files."""

    path: str
    config: LoraConfig
    weights: dict[str, Tensor]
    trained: Provenance


def read_adapter(path: str, revision: str | None = None) -> TrainedAdapter:
    """Read an adapter's settings and weights, and what it was trained on.

    Args:
        path: Hub id or folder.
        revision: branch, tag or commit on the Hub.

    Raises:
        UserError: it is not a LoRA adapter, incomplete, damaged, or a pickle.
    """
    file = find_file(path, "adapter_config.json", "adapter", revision)
    # All files of one commit, whatever is pushed in the meantime.
    revision = find_commit(file.parent)[1] or revision
    raw = read_object(file)
    if raw.get("peft_type") != "LORA":
        raise UserError(
            f"{file}: expected a LoRA adapter, got peft_type={raw.get('peft_type')!r}. Only LoRA, DoRA and "
            "rsLoRA can be read."
        )
    rank, alpha, targets = (raw.get(name) for name in ("r", "lora_alpha", "target_modules"))
    is_number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
    if not isinstance(rank, int) or rank < 1 or not is_number or not isinstance(targets, str | list):
        raise UserError(
            f"{file} is incomplete: expected r, lora_alpha and target_modules, got r={rank!r}, "
            f"lora_alpha={alpha!r}, target_modules={targets!r}. Copy or download the adapter again."
        )
    pickle = Path(path) / "adapter_model.bin"
    if pickle.is_file() and not pickle.with_suffix(".safetensors").is_file():
        raise UserError(
            f"{pickle} is a pickle, which could run code when it is read: only adapter_model.safetensors "
            "is. Save the adapter anew with save_pretrained."
        )
    weights_file = find_file(path, "adapter_model.safetensors", "adapter", revision)
    try:
        weights = load_file(weights_file)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{weights_file} is damaged ({error}). Copy or download it again.") from error
    broken = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if broken:
        raise UserError(
            f"{weights_file} is damaged: {len(broken)} of its weights hold NaN or infinite numbers, such "
            f"as {broken[0]}. Copy or download it again."
        )
    try:
        config = LoraConfig.from_pretrained(str(file.parent))
    except (TypeError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}. Copy or download the adapter again.") from error
    trained = read_provenance(raw, lambda name: _find_record(path, name, revision))
    return TrainedAdapter(path, config, weights, trained)


def _find_record(path: str, name: str, revision: str | None) -> Path | None:
    """Return a file that may be next to an adapter, or in the folder of the run that it belongs to."""
    if Path(path).is_dir():
        folder = Path(path).absolute()
        # Of a run: runs/NAME/adapter and runs/NAME/checkpoints/checkpoint-N.
        return next((at / name for at in (folder, *folder.parents[:2]) if (at / name).is_file()), None)
    try:
        return find_file(path, name, "adapter", revision)
    except UserError as error:
        if isinstance(error.__cause__, EntryNotFoundError):
            return None
        raise


def load_adapter(model: PaliGemmaForConditionalGeneration, adapter: TrainedAdapter) -> PeftModel:
    """Put a trained adapter on its base, to be evaluated.

    Args:
        model: the base; changed in place.
        adapter: see `read_adapter`; whether this is its base is checked by `check_base`.

    Raises:
        UserError: it has other layers or shapes than the base.
    """
    adapter.config.inference_mode = True
    # Whatever was declared, it is used as what it is: PEFT would look for the head of another task.
    adapter.config.task_type = None
    adapter.config.base_model_name_or_path = None  # `check_base` has reported a different one.
    try:
        rename_settings(adapter.config, model)
        adapted: PeftModel = get_peft_model(model, adapter.config)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, re.error) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"The adapter `{adapter.path}` does not fit this base: {reason}") from error
    _fill(adapted, adapter)
    return adapted.eval()


def continue_adapter(model: PeftModel, adapter: TrainedAdapter) -> None:
    """Give a new adapter the weights of a trained one, to continue its training.

    Args:
        model: with an adapter of the run's settings.
        adapter: the trained adapter; whether this is its base is checked by `check_base`.

    Raises:
        UserError: its settings or layers are not those of the run.
    """
    new, trained = (config.to_dict() for config in (model.peft_config[_NAME], adapter.config))
    differing = sorted(name for name in new.keys() - _OF_THE_RUN if new[name] != trained.get(name))
    foreign = [name for name in differing if name not in _OPTIONS]
    if trained.get("init_lora_weights", True) not in _INITS:
        foreign.append("init_lora_weights")
    if foreign:
        values = ", ".join(f"{name}={trained.get(name)}" for name in foreign)
        raise UserError(
            f"The adapter `{adapter.path}` cannot be trained further here: it has {values}, for which "
            "there is no option. It can be used, and merged into its base to train on that."
        )
    if differing:
        # Taken silently from the adapter's files, they would not be in the run's config.yaml.
        words = " ".join(f"peft.{name}={trained.get(name)}" for name in differing)
        here = " ".join(f"peft.{name}={new[name]}" for name in differing)
        raise UserError(
            f"The adapter `{adapter.path}` goes on as it is: it was trained with {words}, but this run has "
            f"{here}. Give the adapter's values, or start without adapter=."
        )
    _fill(model, adapter)


def name_base(model: PeftModel, origin: Origin) -> None:
    """Say in a new adapter's settings which checkpoint it is trained on."""
    config = model.peft_config[_NAME]
    config.base_model_name_or_path, config.revision = origin.name, origin.commit


def _fill(model: PeftModel, adapter: TrainedAdapter) -> None:
    """Load the weights into a model that has the adapter's layers already, and read them back.

    Raises:
        UserError: model and file do not hold the same weights.
    """
    expected = name_weights(model)
    weights = rename_weights(adapter.weights, expected)
    shapes = [
        f"{name} ({list(weights[name].shape)} for {list(expected[name].shape)})"
        for name in weights.keys() & expected.keys()
        if weights[name].shape != expected[name].shape
    ]
    problems = list_differences(
        missing=expected.keys() - weights.keys(),
        unexpected=weights.keys() - expected.keys(),
        of_another_shape=shapes,
    )
    if problems:
        raise UserError(
            f"The adapter `{adapter.path}` does not fit: of {len(expected)} weights for the layers here "
            f"{problems}. It was made for another base, rank or layers (peft.target_modules, freeze=), or "
            "its files do not belong together."
        )
    if all(value.is_meta for value in expected.values()):
        return  # On the meta device (`plan`) there are no values.
    for name, parameter in model.named_parameters():
        # PEFT makes a copy in the base's format; the trained values must not be rounded to it.
        stored = weights.get(name.replace(f".modules_to_save.{_NAME}", ""))
        if ".modules_to_save." in name and stored is not None:
            parameter.data = parameter.data.to(stored.dtype)
    copy_weights(model, weights, adapter.path)
