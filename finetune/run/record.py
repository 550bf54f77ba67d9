"""The settings and the answers of a run for `metrics.json`, so that `reproduce` notices other ones.

A repository on the Hub has them too, so nothing in them names a folder or a machine.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from finetune.errors import UserError
from finetune.example import PredictionRow

_NOT_COMPARED = (
    "adapter", "adapter_base", "adapter_revision", "check_images", "evaluation.batch_size",
    "evaluation.pictures", "model.hub_id", "model.path", "model.revision", "published", "push", "report",
    "runs_dir", "task.mask_vae", "tracker", "trainer.dataloader_num_workers",
    "trainer.dataloader_prefetch_factor",
)  # fmt: skip
"""Settings that change no score, or name a place; the base and the data have digests."""


def read_settings(config: Path) -> dict[str, Any]:
    """Return the settings that results depend on, by dotted key; the chosen files of groups by `/group`.

    Raises:
        UserError: the file is not a run's configuration.
    """
    values = dict(_flatten(read_config(config)))
    return {
        key: value
        for key, value in values.items()
        if not any(f"{key}.".startswith(f"{name}.") for name in _NOT_COMPARED)
        # Which rows a text names shows in the digest of the data.
        and not (key.startswith("dataset.") and isinstance(value, str))
        and not _is_place(value)
    }


def read_places(config: Path) -> dict[str, str]:
    """Return the texts of a configuration that name data, a base or an adapter, by dotted key.

    Raises:
        UserError: the file is not a run's configuration.
    """
    values = dict(_flatten(read_config(config)))
    return {
        key: value
        for key, value in values.items()
        if isinstance(value, str) and (key.startswith(("dataset.", "model.path")) or key == "adapter")
    }


def read_config(file: Path) -> dict[str, Any]:
    """Return the values of a run's `config.yaml`.

    Raises:
        UserError: the file cannot be read, or is not a mapping.
    """
    try:
        values = OmegaConf.to_container(OmegaConf.load(file))
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(
            f"{file} cannot be read ({str(error).splitlines()[0]}). Restore the file."
        ) from error
    if not isinstance(values, dict):
        raise UserError(f"{file}: expected the settings of a run, `key: value`. Restore the file.")
    return {str(key): value for key, value in values.items()}


def digest_answers(rows: Iterable[PredictionRow]) -> str:
    """Return a digest of the answers to a split, in any order: id, prompt and answer of each row."""
    answers = sorted([str(row.get(key, "")) for key in ("id", "prefix", "prediction")] for row in rows)
    return f"sha256:{sha256(json.dumps(answers).encode()).hexdigest()}"


def _flatten(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if key == "defaults" and not prefix:
            yield from _list_choices(value)
        elif isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _list_choices(defaults: Any) -> Iterator[tuple[str, str]]:
    for entry in defaults if isinstance(defaults, list) else []:
        for group, choice in entry.items() if isinstance(entry, Mapping) else ():
            name = str(group).removeprefix("override ")
            if name not in {"/tracker", "/model"}:
                yield name, str(choice)


def _is_place(value: object) -> bool:
    if not isinstance(value, str):
        return False
    return value.startswith(("/", "~", "./", "../", "\\\\")) or value[1:3] in {":\\", ":/"}
