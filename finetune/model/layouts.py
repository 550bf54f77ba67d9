"""The names that PaliGemma's modules had in older versions of transformers, found in today's model.

The parts of a PaliGemma were wrapped anew several times:

- 4.41 to 4.51: `language_model.model.layers`, `language_model.lm_head`, `vision_tower.vision_model.encoder`
- 4.52 and later: `model.language_model.layers`, `lm_head`, `model.vision_tower.vision_model.encoder`
- without SigLIP's wrapper: `model.vision_tower.encoder`
- in an adapter of `AutoModel`, which has no head: `language_model.layers`, `vision_tower...`

PEFT renames the matrices of LoRA when it loads an adapter, but neither copies of modules
(`modules_to_save`) nor the names in `adapter_config.json`.
"""

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from peft import LoraConfig
from torch import nn

_PREFIX = "base_model.model."
_WRAPPERS = {"model", "vision_model"}
_HEAD = "lm_head"

Value = TypeVar("Value")


def rename_weights(weights: Mapping[str, Value], expected: Iterable[str]) -> dict[str, Value]:
    """Return an adapter's weights under the names of this model; unknown ones keep theirs.

    Args:
        weights: by their names in the adapter's file.
        expected: names of the adapter's weights in this model.
    """
    known = {_shorten(name): name for name in expected}
    return {known.get(_shorten(name), name): value for name, value in weights.items()}


def rename_settings(config: LoraConfig, model: nn.Module) -> None:
    """Give the modules in an adapter's settings their names in this model.

    Args:
        config: settings of the adapter; changed in place.
        model: the base, without the adapter.
    """
    former = {name: _former(name) for name, _ in model.named_modules() if name}

    def rename(named: str) -> set[str]:
        # The last part of a name, such as `q_proj`, is the same in every version.
        if "." not in named or any(_ends(name, named) for name in former):
            return {named}
        return {name for name in former if any(_ends(older, named) for older in former[name])} or {named}

    def rename_all(names: Iterable[str]) -> list[str]:
        return sorted({name for named in names for name in rename(named)})

    targets = config.target_modules
    if not isinstance(targets, str):
        config.target_modules = set(rename_all(targets or ()))
    elif targets != "all-linear" and not any(re.fullmatch(targets, name) for name in former):
        named = {name for name in former if any(re.fullmatch(targets, older) for older in former[name])}
        config.target_modules = named or targets
    if config.modules_to_save:
        config.modules_to_save = rename_all(config.modules_to_save)
    for name in ("rank_pattern", "alpha_pattern"):
        patterns = getattr(config, name) or {}
        setattr(config, name, {new: value for key, value in patterns.items() for new in rename(key)})


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def _shorten(name: str) -> str:
    """Return a name without what was wrapped around PaliGemma's parts."""
    parts = name.removeprefix(_PREFIX).split(".")
    if _HEAD in parts:
        return ".".join(parts[parts.index(_HEAD) :])
    return ".".join(part for part in parts if part not in _WRAPPERS)


def _former(name: str) -> set[str]:
    """Return the names that a module had in older versions."""
    bare = name.removeprefix("model.")
    former = {name, bare, re.sub(r"^language_model\.", "language_model.model.", bare)}
    if bare == _HEAD:
        former.add(f"language_model.{_HEAD}")
    return former | {item.replace("vision_tower.", "vision_tower.vision_model.") for item in former}
