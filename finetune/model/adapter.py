"""A trained adapter from a folder or the Hub: checked against the base, loaded, and read back."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import OmegaConf
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PaliGemmaForConditionalGeneration

from finetune.errors import UserError
from finetune.model.load import find_file, list_differences, read_object
from finetune.model.weights import copy_weights, name_weights

log = logging.getLogger(__name__)

_NAME = "default"
_OF_THE_RUN = {
    "auto_mapping",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "inference_mode",
    "init_lora_weights",
    "lora_dropout",
    "modules_to_save",
    "peft_version",
    "revision",
    "target_modules",
    "task_type",
}
"""Fields of an adapter's settings that may differ in a run that continues it: they concern the run
alone, or show in the names of the weights."""


@dataclass(frozen=True)
class TrainedAdapter:
    """The contents of an adapter's files."""

    path: str
    config: LoraConfig
    weights: dict[str, Tensor]


def read_adapter(path: str) -> TrainedAdapter:
    """Read an adapter's settings and weights.

    Args:
        path: Hub id or folder.

    Raises:
        UserError: it is not a LoRA adapter, incomplete, damaged, or a pickle.
    """
    file = find_file(path, "adapter_config.json", "adapter")
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
    weights_file = find_file(path, "adapter_model.safetensors", "adapter")
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
    return TrainedAdapter(path, config, weights)


def load_adapter(model: PaliGemmaForConditionalGeneration, path: str, bits: int = 16) -> PeftModel:
    """Put a trained adapter on its base, to be evaluated.

    Args:
        model: the base; changed in place.
        path: Hub id or folder of the adapter.
        bits: in which the weights of the base are stored.

    Raises:
        UserError: see `read_adapter`; or it was made for another base.
    """
    adapter = read_adapter(path)
    _check_base(model, adapter, bits)
    adapter.config.inference_mode = True
    adapter.config.base_model_name_or_path = None  # `_check_base` has reported a different one.
    try:
        adapted: PeftModel = get_peft_model(model, adapter.config)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"The adapter `{path}` does not fit this base: {reason}") from error
    _fill(adapted, adapter)
    return adapted.eval()


def continue_adapter(model: PeftModel, path: str, bits: int = 16) -> None:
    """Give a new adapter the weights of a trained one, to continue its training.

    Args:
        model: with an adapter of the run's settings.
        path: Hub id or folder of the trained adapter.
        bits: in which the weights of the base are stored.

    Raises:
        UserError: see `read_adapter`; or its settings or layers are not those of the run.
    """
    adapter = read_adapter(path)
    _check_base(model.get_base_model(), adapter, bits)
    new, trained = (config.to_dict() for config in (model.peft_config[_NAME], adapter.config))
    differing = sorted(name for name in new.keys() - _OF_THE_RUN if new[name] != trained.get(name))
    if differing:
        # Taken silently from the adapter's files, they would not be in the run's config.yaml.
        words = " ".join(f"peft.{name}={trained.get(name)}" for name in differing)
        here = " ".join(f"peft.{name}={new[name]}" for name in differing)
        raise UserError(
            f"The adapter `{path}` goes on as it is: it was trained with {words}, but this run has {here}. "
            "Give the adapter's values, or start without adapter=."
        )
    _fill(model, adapter)


def _check_base(model: PaliGemmaForConditionalGeneration, adapter: TrainedAdapter, bits: int) -> None:
    """Refuse an adapter of another resolution; warn about another checkpoint or precision."""
    path = adapter.path
    trained = _trained_resolution(Path(path))
    resolution = int(model.config.vision_config.image_size)
    if trained is not None and trained != resolution:
        raise UserError(
            f"The adapter `{path}` was trained at {trained} pixels, but this base has {resolution}: give "
            "the checkpoint that it was trained on (model=)."
        )
    names = (adapter.config.base_model_name_or_path, model.name_or_path)
    before, here = (Path(str(name or "")) for name in names)
    if before.name and here.name and before.name != here.name:
        log.warning("warning: the adapter %s was trained on %s, and is used on %s.", path, before, here)
    trained_bits = _trained_bits(Path(path))
    if trained_bits is not None and trained_bits != bits:
        log.warning(
            "warning: the adapter %s was trained on weights in %d bits, and is used on %d bits: its "
            "answers change a little. peft.bits=%d (4: peft=qlora) is as it was trained.",
            path,
            trained_bits,
            bits,
            trained_bits,
        )


def _trained_resolution(folder: Path) -> int | None:
    """Return the image side of the processor in an adapter's folder; None if there is no processor."""
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            settings = OmegaConf.create(read_object(folder / name))
            sides = (OmegaConf.select(settings, f"{key}size.height") for key in ("image_processor.", ""))
            return next((side for side in sides if isinstance(side, int)), None)
    return None


def _trained_bits(folder: Path) -> int | None:
    """Return `peft.bits` of the run whose folder contains an adapter; None if there is no run."""
    for parent in folder.absolute().parents[:2]:
        file = parent / "config.yaml"
        if file.is_file():
            try:
                bits = OmegaConf.select(OmegaConf.load(file), "peft.bits")
            except Exception:  # It may be anyone's file.
                return None
            return bits if isinstance(bits, int) else None
    return None


def _fill(model: PeftModel, adapter: TrainedAdapter) -> None:
    """Load the weights into a model that has the adapter's layers already, and read them back.

    Raises:
        UserError: model and file do not hold the same weights.
    """
    # Names from older versions of transformers are converted, as PEFT does when it loads an adapter.
    weights = convert_peft_adapter_state_dict_for_transformers(
        model, adapter.config, adapter.weights, _NAME
    )
    expected = name_weights(model)
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
