"""A run on the Hub, as `push` sends it: `USER/NAME`, or `USER/NAME@REVISION`."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.errors import UserError
from finetune.strict_json import parse_json

_HUB_ID = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")

_FILES = [
    "*.json", "*.jinja", "*.safetensors", "base/*", "config.yaml", "mask_vae.npz", "predictions/*.jsonl",
    "README.md", "tokenizer.model",
]  # fmt: skip
"""What is downloaded of a repository; never code or pickles."""


def is_published(name: str) -> bool:
    """Whether a name is that of a repository, not of a folder, which may be missing."""
    return bool(_HUB_ID.fullmatch(name)) and not Path(name).exists() and not Path(name).parent.is_dir()


def find_published(name: str, file: str) -> Path:
    """Return a file of a run on the Hub; it is downloaded once.

    Raises:
        UserError: there is no such repository, revision or file, no access to it, or no network.
    """
    return _download(name, [file]) / file


def fetch_published(name: str) -> Path:
    """Return the folder of a run on the Hub, with its files downloaded.

    Raises:
        UserError: as in `find_published`.
    """
    return _download(name, _FILES)


def _download(name: str, files: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    from finetune.hub import explain, quiet_bars

    parts = _HUB_ID.fullmatch(name)
    assert parts is not None, "the caller has asked `is_published`"
    try:
        with quiet_bars():
            return Path(snapshot_download(parts["id"], revision=parts["revision"], allow_patterns=files))
    except Exception as error:  # of the network, the Hub or the disk
        reason = explain(error, "model", parts["id"], parts["revision"])
        raise UserError(reason or f"The model `{name}` cannot be read from the Hub: {error}") from error


def name_model(
    words: Sequence[str | Path], options: Mapping[str, object]
) -> tuple[list[str], dict[str, object]]:
    """Write out a model that is named without saying what it is, or an adapter without its base.

    A folder or repository with a run's `config.yaml` is meant as a run, so that its prompt and classes are
    known; an adapter alone is put on the base that it names, and anything else is a checkpoint.

    Args:
        words: words of a command; at most one without a key.
        options: values by key.

    Returns:
        Words and values with `run=`, or `model=` and `adapter=`.

    Raises:
        UserError: two models are named, or what is named is on the Hub and cannot be read.
    """
    texts = list(map(str, words))
    bare = [word for word in texts if "=" not in word or Path(word).is_dir()]
    rest = [word for word in texts if word not in bare]
    given = {**dict.fromkeys(word.partition("=")[0] for word in rest), **options}
    keys = given.keys() & {"run", "model", "model.path"}
    if len(bare) > 1 or (bare and keys):
        named = [*bare, *(f"{key}=" for key in sorted(keys))]
        raise UserError(f"Which model? Name one of {', '.join(named)}.")
    adapter = options.get("adapter")
    if bare:
        return rest, {**options, **_spell(bare[0])}
    if isinstance(adapter, str | Path) and not keys:
        others = {key: value for key, value in options.items() if key != "adapter"}
        return rest, {**others, **_spell(str(adapter))}
    return rest, dict(options)


def _spell(name: str) -> dict[str, object]:
    folder = Path(name)
    if is_published(name):
        folder = _download(name, ["config.yaml", "adapter_config.json", "config.json"])
    elif folder.name in {"adapter", "model"} and (folder.parent / "config.yaml").is_file():
        return {"run": str(folder.parent)}
    if (folder / "config.yaml").is_file() or not folder.is_dir():
        return {"run": name}
    settings = folder / "adapter_config.json"
    if not settings.is_file():
        return {"model.path": name} if (folder / "config.json").is_file() else {"run": name}
    try:
        values: Any = parse_json(settings.read_bytes())
        base = values.get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f"{settings} cannot be read ({error}). Copy or download the adapter again."
        ) from error
    if not isinstance(base, str) or not base:
        raise UserError(f"{settings} does not name the base of the adapter: give it with model=.")
    return {"model.path": base, "adapter": name}
