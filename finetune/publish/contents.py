"""What of a run goes into a repository: a list of names, and nothing else.

Texts are sent without this machine's paths, the report without images of the data, and nothing at all if
one of the files has a secret in it.
"""

import hashlib
import json
import logging
import re
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

from finetune.config.secrets import find_secret_lines
from finetune.errors import UserError
from finetune.publish.card import CARD
from finetune.publish.options import IMAGES, PREDICTIONS
from finetune.publish.paths import Places, is_local, list_texts
from finetune.run.checkpoints import digest_weights
from finetune.run.files import read_json
from finetune.run.folder import RunFolder
from finetune.run.results import read_metrics

log = logging.getLogger(__name__)

_PROCESSOR = (
    "processor_config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
)  # fmt: skip
_RESULT = (
    "adapter_config.json", "adapter_model.safetensors", "config.json", "generation_config.json",
    "model.safetensors", "model-?????-of-?????.safetensors", "model.safetensors.index.json", *_PROCESSOR,
)  # fmt: skip
_ROWS = ("validation*.jsonl", "test*.jsonl")
_ENVIRONMENT = ("python", "packages", "gpus", "processes", "commit", "base")
"""Keys of `environment.json` that are sent: those that a repetition needs."""

ALLOWED = (
    CARD, *_RESULT, "config.yaml", "metrics.json", "environment.json", "report.html", "mask_vae.npz",
    *(f"base/{name}" for name in _RESULT), *(f"predictions/{name}" for name in _ROWS),
)  # fmt: skip
"""Patterns of every path that a push may write into a repository, and so of those that it may delete."""

_OF_MERGE = {".finetune-merge", "merge.json"}
"""What `merge` writes for itself."""

_LONG_TEXT = "tokenizer.json"
"""The vocabulary: not ours, and no place for paths."""
_IMAGE = re.compile(r"<img\b[^>]*\bsrc=[\"']?data:image/[^>]*>")
_LONGEST_HEADER = 100_000_000
"""Bytes; safetensors' own limit."""


@dataclass
class Contents:
    """Files for a repository.

    Attributes:
        files: path in the repository -> file, or the content if it differs from the file's.
        left_out: files next to the weights that are not on the list.
    """

    files: dict[str, Path | bytes] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def size(self, name: str) -> int:
        """Return the number of bytes of a file."""
        content = self.files[name]
        return len(content) if isinstance(content, bytes) else content.stat().st_size

    def sha256(self, name: str) -> str:
        """Return the digest of a file, hexadecimal."""
        content = self.files[name]
        if isinstance(content, bytes):
            return hashlib.sha256(content).hexdigest()
        with content.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def write(self, folder: Path) -> None:
        """Write the files into a folder."""
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                (folder / name).write_bytes(content)
            else:
                shutil.copyfile(content, folder / name)

    @property
    def sizes(self) -> dict[str, int]:
        """Path -> bytes."""
        return {name: self.size(name) for name in self.files}


def is_allowed(path: str) -> bool:
    """Whether a push may write or delete a path of a repository."""
    return any(path.count("/") == one.count("/") and fnmatch(path, one) for one in ALLOWED)


def collect(
    run: RunFolder,
    result: Path,
    card: str,
    include: list[str],
    base: Path | None = None,
    merged: str | None = None,
) -> Contents:
    """Return the files that a push of a run sends.

    Args:
        run: the run's folder.
        result: folder of the weights: the run's adapter or model, or a merged model.
        card: the text of README.md.
        include: see `PushOptions.include`.
        base: folder of a base that is on no Hub, which goes along in `base/`.
        merged: format of the weights of a merged model; the scores are those before it was merged.

    Raises:
        UserError: a file is missing or cannot be read, or has a secret in it.
    """
    contents = Contents()
    try:
        _add_folder(contents, result, "")
        for name in ("config.yaml", "metrics.json", "environment.json", "report.html", "mask_vae.npz"):
            if (run.root / name).is_file():
                contents.files[name] = run.root / name
        if merged is not None:
            metrics = read_metrics(run)
            metrics["result"] |= {"sha256": digest_weights(result), "merged": merged}
            contents.files["metrics.json"] = json.dumps(metrics, indent=2, ensure_ascii=False).encode()
            contents.left_out = [name for name in contents.left_out if name not in _OF_MERGE]
        if PREDICTIONS in include:
            for file in sorted(run.predictions.glob("*.jsonl")):
                if any(fnmatch(file.name, pattern) for pattern in _ROWS):
                    contents.files[f"predictions/{file.name}"] = file
        if base is not None:
            _add_folder(contents, base, "base/")
        contents.files[CARD] = card.encode()
        _clean(contents, with_images=IMAGES in include)
        contents.files = dict(sorted(contents.files.items()))
        _refuse_secrets(contents)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{run.root}: a file cannot be read: {error}. Nothing was sent.") from error
    return contents


def _add_folder(contents: Contents, folder: Path, prefix: str) -> None:
    for file in sorted(folder.iterdir()):
        if file.is_file() and any(fnmatch(file.name, pattern) for pattern in _RESULT):
            contents.files[prefix + file.name] = file
        elif not prefix and file.name not in {CARD, "training_args.bin"}:
            contents.left_out.append(file.name)


def _clean(contents: Contents, *, with_images: bool) -> None:
    """Replace the texts by those that others may read."""
    texts = {
        name: file.read_text(encoding="utf-8") if isinstance(file, Path) else file.decode()
        for name, file in contents.files.items()
        if Path(name).suffix in {".json", ".jsonl", ".yaml", ".html", ".md", ".jinja"}
        and Path(name).name != _LONG_TEXT
    }
    if "environment.json" in texts:
        texts["environment.json"] = _shorten_environment(contents.files["environment.json"])
    if "report.html" in texts and not with_images:
        texts["report.html"] = _IMAGE.sub("", texts["report.html"])
    places = Places(_list_paths(texts))
    for name, text in texts.items():
        cleaned = places.hide(text).encode()
        if cleaned != _read(contents.files[name]):
            contents.files[name] = cleaned
    if places.replaced:
        log.info(
            "paths of this machine are sent as their last part: %s", ", ".join(sorted(places.replaced))
        )


def _shorten_environment(file: Path | bytes) -> str:
    assert isinstance(file, Path), "of the run"
    environment = read_json(file)
    kept = {key: environment[key] for key in _ENVIRONMENT if key in environment}
    return json.dumps(kept, indent=2, ensure_ascii=False) + "\n"


def _list_paths(texts: Mapping[str, str]) -> list[str]:
    """Return the texts in settings and results that are paths of this machine."""
    found: list[str] = []
    for name, text in texts.items():
        if name.endswith((".yaml", ".json")):
            try:
                value: Any = yaml.safe_load(text) if name.endswith(".yaml") else json.loads(text)
            except (yaml.YAMLError, ValueError) as error:
                raise UserError(f"{name} of the run cannot be read: {error}. Restore it.") from error
            found += [one for one in list_texts(value) if is_local(one)]
    return found


def _refuse_secrets(contents: Contents) -> None:
    """Check every text, and the headers of weights.

    Raises:
        UserError: names the file and the line, not the secret.
    """
    for name, content in contents.files.items():
        suffix = Path(name).suffix
        if suffix == ".safetensors" and isinstance(content, Path):
            text = _read_header(content)
        elif suffix == ".npz":
            continue
        else:
            text = _read(content).decode(errors="replace")
        for line in find_secret_lines(text, with_patterns=Path(name).name != _LONG_TEXT):
            source = f" ({content})" if isinstance(content, Path) else ""
            raise UserError(
                f"{name}{source}, line {line}, has what looks like a token or a password. Nothing was "
                "sent. Take it out there; if it is a real one, replace it at its provider too."
            )


def _read(content: Path | bytes) -> bytes:
    return content if isinstance(content, bytes) else content.read_bytes()


def _read_header(file: Path) -> str:
    """Return the JSON at the beginning of a safetensors file, in which a program may have left notes."""
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        return stream.read(min(length, _LONGEST_HEADER)).decode(errors="replace")
