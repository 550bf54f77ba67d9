"""The weights of a checkpoint, loaded into a model that is already built, and read back.

A full model's file has other names than its `state_dict` (transformers renames on saving), an adapter's has
PEFT's. Both libraries skip names that they do not recognize; here both sets of names must be equal.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.core_model_loading import revert_weight_conversion

from finetune.errors import UserError

_SHOWN = 3


def load_weights(model: nn.Module, folder: Path) -> None:
    """Copy a checkpoint's weights into a model.

    Args:
        model: a full model, or one with an adapter, as it was when the checkpoint was saved.
        folder: holds `adapter_model.safetensors`, or `model.safetensors` or its parts.

    Raises:
        UserError: a file is missing or damaged, or names, shapes or values differ.
    """
    live = name_weights(model)
    saved = read_weights(folder, "adapter_model" if isinstance(model, PeftModel) else "model")
    # The file has one name of tied weights, the model has all.
    covered = {live[name].data_ptr() for name in saved.keys() & live.keys()}
    missing = sorted(name for name, tensor in live.items() if tensor.data_ptr() not in covered)
    unexpected = sorted(saved.keys() - live.keys())
    if missing or unexpected:
        raise UserError(
            f"The weights in {folder} are not this model's. In the model alone: {_list(missing)}; in the "
            f"files alone: {_list(unexpected)}. Start again with the settings they were trained with."
        )
    for name, tensor in saved.items():
        if tensor.shape != live[name].shape:
            raise UserError(
                f"{folder}: expected `{name}` to be {tuple(live[name].shape)}, got {tuple(tensor.shape)}."
            )
    copy_weights(model, saved, folder)


@torch.no_grad()
def copy_weights(model: nn.Module, saved: Mapping[str, Tensor], origin: str | Path) -> None:
    """Copy tensors into a model, and read them back.

    Args:
        model: has weights of these names and shapes.
        saved: tensors under the names that the model's checkpoint has.
        origin: their file or folder, for a message.

    Raises:
        RuntimeError: the model does not hold them afterwards.
    """
    live = name_weights(model)
    for name, tensor in saved.items():
        live[name].copy_(tensor)
    for name, tensor in name_weights(model).items():
        if name in saved:
            wider = torch.promote_types(tensor.dtype, saved[name].dtype)
            if not torch.equal(tensor.cpu().to(wider), saved[name].to(wider)):
                raise RuntimeError(f"`{name}` does not hold what {origin} has")


def name_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's tensors under the names that its checkpoint has.

    Raises:
        RuntimeError: the libraries would save other tensors than the parameters themselves.
    """
    state = model.state_dict()
    named: dict[str, Tensor]
    if isinstance(model, PeftModel):
        named = get_peft_model_state_dict(model, state_dict=state, save_embedding_layers=False)
    else:
        named = revert_weight_conversion(model, dict(state))
    pointers = {tensor.data_ptr() for tensor in state.values()}
    strangers = [name for name, tensor in named.items() if tensor.data_ptr() not in pointers]
    if strangers:
        raise RuntimeError(f"`{strangers[0]}` of a checkpoint is not a tensor of the model")
    return named


def read_weights(folder: Path, stem: str) -> dict[str, Tensor]:
    """Return the tensors of `<stem>.safetensors`, or of the parts that its index names.

    Raises:
        UserError: a file is missing or cannot be read.
    """
    whole, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    try:
        if whole.is_file() or not index.is_file():
            return load_file(whole)
        names: Mapping[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        parts = [load_file(folder / part) for part in sorted(set(names.values()))]
        return {name: tensor for part in parts for name, tensor in part.items()}
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(
            f"{folder}: the weights cannot be read ({error}). Restore the files, or start again."
        ) from error


def _list(names: list[str]) -> str:
    if not names:
        return "none"
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"`{name}`" for name in names[:_SHOWN]) + rest
