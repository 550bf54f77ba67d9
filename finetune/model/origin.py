"""Which weights a checkpoint has: its id and commit on the Hub, and a fingerprint of its tensors."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, BinaryIO

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from finetune.errors import UserError
from finetune.model.load import find_file, resolve_path
from finetune.model.options import COMMIT, HUB_ID, ModelConfig
from finetune.strict_json import parse_json

_SAMPLE = 4096
"""Bytes that are read at the beginning, in the middle and at the end of each tensor."""


@dataclass(frozen=True)
class Origin:
    """A checkpoint, as `environment.json` records it under `base`."""

    path: str
    """Hub id, folder, or `tiny`."""
    revision: str | None = None
    """Branch, tag or commit that was asked for."""
    hub_id: str | None = None
    """Id on the Hub, also of a copy in a folder; None if it is not known."""
    commit: str | None = None
    """Commit on the Hub; None if it is not known."""
    fingerprint: str | None = None
    """See `fingerprint_weights`; None if the weights are not on this machine."""

    @property
    def name(self) -> str:
        """Return what `adapter_config.json` calls the base: its Hub id, `tiny`, or its absolute folder."""
        if self.hub_id is not None or self.path == "tiny":
            return self.hub_id or self.path
        folder = Path(self.path)
        return str(folder.absolute()) if folder.is_dir() else self.path

    def __str__(self) -> str:
        at = f" at commit {self.commit[:12]}" if self.commit else ""
        folder = f" ({self.path})" if self.hub_id not in {None, self.path} else ""
        return f"{self.hub_id or self.path}{at}{folder}"


def find_origin(options: ModelConfig) -> Origin:
    """Return what this machine knows of a checkpoint, without a network.

    Args:
        options: `path`, `revision` and `hub_id` are read.
    """
    path, revision = options.path, options.revision
    folder = _locate(path, revision)
    hub_id, commit = find_commit(folder) if folder else (None, None)
    if hub_id is None and options.hub_id is not None:
        # Of a folder it is only known what the user says.
        hub_id = options.hub_id
        commit = revision if revision is not None and COMMIT.fullmatch(revision) else None
    if hub_id is None and folder is None and HUB_ID.fullmatch(path):
        hub_id = path
        commit = revision if revision is not None and COMMIT.fullmatch(revision) else None
    fingerprint = fingerprint_weights(folder) if folder else None
    return Origin(path, revision, hub_id, commit, fingerprint)


def pin_revision(options: ModelConfig, recorded: Origin | None = None) -> ModelConfig:
    """Return the options with a commit in place of a branch or tag of the Hub.

    Everything is then read from one commit, whatever is pushed in the meantime.

    Args:
        options: name the checkpoint.
        recorded: the base of a run that goes on or is used again; its commit is taken.

    Raises:
        UserError: there is no such checkpoint, or it cannot be reached.
    """
    path, revision = options.path, options.revision
    if Path(resolve_path(path)).is_dir():
        return options
    if options.hub_id is not None and options.hub_id != path:
        raise UserError(
            f"model.hub_id={options.hub_id} is the Hub id of a checkpoint in a folder, but there is no "
            f"folder `{path}`. Leave model.hub_id= out, or give a folder: model=FOLDER."
        )
    if recorded is not None and recorded.commit and (recorded.path, recorded.revision) == (path, revision):
        return replace(options, revision=recorded.commit)
    _, commit = find_commit(find_file(path, "config.json", revision=revision).parent)
    return replace(options, revision=commit or revision)


def read_origin(environment: Path) -> Origin | None:
    """Return the base that an `environment.json` records; None if it is not there."""
    try:
        content: Any = parse_json(environment.read_bytes())
        base = content["base"]
        values = {field.name: base.get(field.name) for field in fields(Origin)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # It may be anyone's file, or of a version that did not record it.
    is_text = all(value is None or isinstance(value, str) for value in values.values())
    return Origin(**values) if is_text and values["path"] else None


def find_commit(snapshot: Path) -> tuple[str | None, str | None]:
    """Return Hub id and commit of a folder in the Hub's cache; None for any other folder."""
    parent, kind, commit = ["", "", *snapshot.absolute().parts][-3:]
    if kind != "snapshots" or not parent.startswith("models--"):
        return None, None
    return parent.removeprefix("models--").replace("--", "/", 1), commit


def fingerprint_weights(folder: Path) -> str | None:
    """Return a digest of a checkpoint's weights; None if they are not all there.

    It covers name, format and shape of every tensor, and 4 KiB of its values at the beginning, in the
    middle and at the end: reading gigabytes at each start would take minutes, and a training changes
    nearly every tensor. How the tensors are divided into files does not matter.
    """
    digest = hashlib.sha256()
    try:
        for name, description, samples in sorted(_sample_tensors(folder)):
            digest.update(f"{name} {description}\n".encode())
            digest.update(samples)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return f"sha256:{digest.hexdigest()}"


def _sample_tensors(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """Yield name, format with shape, and some bytes of each tensor."""
    index = folder / "model.safetensors.index.json"
    names = {"model.safetensors"}
    if index.is_file() and not (folder / "model.safetensors").is_file():
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    for name in names:
        with (folder / name).open("rb") as stream:
            # safetensors: the header's length in 8 bytes, the header in JSON, the tensors.
            length = int.from_bytes(stream.read(8), "little")
            if length > (folder / name).stat().st_size:
                raise ValueError(f"{name} is cut short")
            header = json.loads(stream.read(length))
            for tensor, entry in header.items():
                if tensor != "__metadata__":
                    begin, end = (8 + length + offset for offset in entry["data_offsets"])
                    yield tensor, f"{entry['dtype']} {entry['shape']}", _read_samples(stream, begin, end)


def _read_samples(stream: BinaryIO, begin: int, end: int) -> bytes:
    middle = (begin + end - _SAMPLE) // 2
    starts = (begin, middle, end - _SAMPLE) if end - begin > 3 * _SAMPLE else (begin,)
    samples = []
    for start in starts:
        stream.seek(start)
        samples.append(stream.read(min(_SAMPLE if len(starts) > 1 else end - begin, end - start)))
    return b"".join(samples)


def _locate(path: str, revision: str | None) -> Path | None:
    """Return the folder of a checkpoint, which may be in the Hub's cache; None if it is not here."""
    folder = Path(resolve_path(path))
    if folder.is_dir():
        return folder
    try:
        cached = try_to_load_from_cache(path, "config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(cached).parent if isinstance(cached, str) else None
