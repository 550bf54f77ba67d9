"""What an adapter was trained on, as far as its files say, compared with what it is used on."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from transformers import PaliGemmaConfig

from finetune.errors import UserError
from finetune.model.load import read_object
from finetune.model.options import AdapterBase, ModelConfig, PeftConfig
from finetune.model.origin import Origin, find_origin, read_origin

log = logging.getLogger(__name__)

_STORED = ("bits", "quantize", "double_quant")
"""Options of `peft` that say how frozen weights are stored."""


@dataclass(frozen=True)
class Provenance:
    """The base of an adapter; what is not known is None."""

    origin: Origin | None
    resolution: int | None
    """Side of the images, pixels."""
    storage: str | None
    """How the frozen weights were stored: `PeftConfig.storage`."""


def describe_base(options: ModelConfig, checkpoint: PaliGemmaConfig, peft: PeftConfig) -> Provenance:
    """Return what a model is that an adapter is to be used on."""
    return Provenance(find_origin(options), int(checkpoint.vision_config.image_size), peft.storage)


def read_provenance(settings: dict[str, Any], find: Callable[[str], Path | None]) -> Provenance:
    """Return what an adapter was trained on.

    Args:
        settings: content of its `adapter_config.json`.
        find: returns a file of the adapter, or of the run that it belongs to; None without such a file.
    """
    environment = find("environment.json")
    origin = None if environment is None else read_origin(environment)
    if origin is None and isinstance(name := settings.get("base_model_name_or_path"), str) and name:
        revision = settings.get("revision")
        # PEFT's own fields. If the base is on this machine, its weights can be compared.
        origin = find_origin(ModelConfig(name, revision if isinstance(revision, str) else None))
    return Provenance(origin, _read_resolution(find), _read_storage(find("config.yaml")))


def _read_resolution(find: Callable[[str], Path | None]) -> int | None:
    """Return the image side of the processor next to an adapter."""
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (file := find(name)) is not None:
            settings = read_object(file)
            size = _items(_items(settings.get("image_processor", settings)).get("size"))
            return size["height"] if isinstance(size.get("height"), int) else None
    return None


def _read_storage(config: Path | None) -> str | None:
    """Return `PeftConfig.storage` of a run."""
    try:
        # Not as a recipe: it may be anyone's file, whose interpolations would read this environment.
        settings = None if config is None else yaml.safe_load(config.read_bytes())
    except (OSError, ValueError, yaml.YAMLError):
        return None
    peft = _items(_items(settings).get("peft"))
    if peft.get("bits") not in (4, 8, 16):
        return None
    known: dict[str, Any] = {name: peft[name] for name in _STORED if name in peft}
    towers = known.get("quantize", [])
    is_valid = isinstance(towers, list) and all(isinstance(tower, str) for tower in towers)
    return PeftConfig(**known).storage if is_valid else None


def _items(node: object) -> dict[str, Any]:
    return node if isinstance(node, dict) else {}


def check_base(
    what: str, trained: Provenance, here: Provenance, allowed: AdapterBase, *, is_loaded: bool = True
) -> None:
    """Refuse an adapter on another base than it was trained on, or warn of it.

    Args:
        what: was trained, for messages: an adapter or a run.
        trained: what it was trained on.
        here: what it is to be used on.
        allowed: `adapter_base`.
        is_loaded: the base's weights are on this machine; before, only what is certain is refused.

    Raises:
        UserError: base, commit, resolution or quantization differ, and only the trained one is allowed.
    """
    differences = list(_differences(trained, here))
    if differences:
        text = f"{what} was trained {'; '.join(text for text, _ in differences)}."
        if allowed == AdapterBase.any:
            if is_loaded:
                log.warning("warning: %s Its answers may differ from those that it learned.", text)
            return
        remedies = " ".join(remedy for _, remedy in differences)
        raise UserError(
            f"{text} Its answers would differ from those that it learned. Give what it was trained on, "
            f"{remedies}, or use it here all the same with adapter_base=any."
        )
    if is_loaded and trained.origin and here.origin and is_same(trained.origin, here.origin) is None:
        log.warning(
            "warning: %s was trained on %s, and is used on %s: whether these are the same weights is not "
            "known.",
            what,
            trained.origin,
            here.origin,
        )


def _differences(trained: Provenance, here: Provenance) -> Iterator[tuple[str, str]]:
    """Yield each difference in words, with the options that choose what the adapter was trained on."""
    if trained.origin and here.origin and is_same(trained.origin, here.origin) is False:
        before, now = str(trained.origin), str(here.origin)
        if before == now:  # Weights of the same name: a folder's were replaced, or a copy was changed.
            before, now = (
                f"{o} with weights {(o.fingerprint or '')[:19]}" for o in (trained.origin, here.origin)
            )
        commit = f" model.revision={trained.origin.commit}" if trained.origin.commit else ""
        yield f"on {before}, but this base is {now}", f"model={trained.origin.name}{commit}"
    if trained.resolution is not None and trained.resolution != here.resolution:
        yield (
            f"at {trained.resolution} pixels, but this base has {here.resolution}",
            f"model= at {trained.resolution} pixels",
        )
    if trained.storage is not None and trained.storage != here.storage:
        yield f"with {trained.storage}, but here are {here.storage}", trained.storage


def is_same(trained: Origin, here: Origin) -> bool | None:
    """Return whether two checkpoints have the same weights; None if that is not known.

    The weights themselves decide where both are on this machine, wherever they are; otherwise the commit,
    and otherwise the Hub id.
    """
    if trained.fingerprint is not None and here.fingerprint is not None:
        return trained.fingerprint == here.fingerprint
    if trained.hub_id is not None and here.hub_id is not None:
        if trained.hub_id.casefold() != here.hub_id.casefold():
            return False
        if trained.commit is None or here.commit is None or trained.commit == here.commit:
            return True
        # Another commit may have the same weights, which shows once they are downloaded.
        return None if trained.fingerprint is not None else False
    # Folders, of which one is not here any more.
    return True if Path(trained.path).name == Path(here.path).name else None
