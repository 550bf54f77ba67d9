"""A published benchmark: the official files under one folder, or a copy on the Hub."""

import importlib
import inspect
import os
import pkgutil
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, cast

from datasets import Dataset, Features, ReadInstruction, concatenate_datasets

from finetune.data import releases
from finetune.data.published import Release, Vqav2
from finetune.data.releases import vqav2
from finetune.data.rows import Built, Reader, Splits, build_rows
from finetune.errors import UserError, suggest


class ReleaseModule(Protocol):
    """What a module in `finetune/data/releases/` has."""

    SPLITS: tuple[str, ...]
    """The names of the official splits."""
    FEATURES: Features
    """The columns."""
    read: Reader
    """`(faults, root, split, **options)` to rows."""


def load_release(source: Release) -> Splits:
    """Load both splits, from files if `root` is given, else from the Hub.

    Raises:
        UserError: no such release, split or file; a fault in the data.
    """
    release, root, train, validation = source.release, source.root, source.train, source.validation
    module = _find(release)
    if root is None:
        if source.hub.path is None:
            raise UserError(f"Where is {release}? Pass dataset.root=FOLDER with its official files.")
        return source.hub.load()
    if not Path(root).is_dir():
        raise UserError(f"No folder {root} (dataset.root).")
    specs = [spec for spec in (train, validation) if spec is not None]
    names = list(dict.fromkeys(name for spec in specs for name in split_names(spec)))
    _check_request(str(release), module, names, source.options)
    built = {
        name: build_rows(
            module.read,
            module.FEATURES,
            source.on_error,
            paths=("root",),
            origin=f"{root} {name}",
            root=root,
            split=name,
            **source.options,
        )
        for name in names
    }
    for spec in specs:
        if not any(len(built[name].rows) or built[name].skipped for name in split_names(spec)):
            raise UserError(f"{release} in {root}: the split `{spec}` has no rows.")
    return _select(built, train, validation)


def _check_request(
    release: str, module: ReleaseModule, names: list[str], options: Mapping[str, object]
) -> None:
    """Refuse options and splits that a release does not have."""
    accepted = set(inspect.signature(module.read).parameters) - {"faults", "root", "split"}
    for option in options:
        if option not in accepted:
            listed = ", ".join(sorted(accepted)) or "none"
            raise UserError(f"{release} has no option dataset.options.{option}; it has: {listed}.")
    for name in names:
        if name not in module.SPLITS:
            hint, splits = suggest(name, list(module.SPLITS)), ", ".join(module.SPLITS)
            raise UserError(f"{release} has no split `{name}`.{hint} It has: {splits}.")


def load_vqav2(source: Vqav2) -> Splits:
    """Load VQAv2 as any other release, or from files given one by one.

    A separate function, because `dataset.train` names files here, not a split.
    """
    if source.root is not None or source.validation.questions is None:
        return source.as_release().load()
    named = {"train": source.train} if source.train.questions else {}
    named |= {"validation": source.validation}
    files = {f"{name}.{key}": file for name, split in named.items() for key, file in vars(split).items()}
    for key, file in files.items():
        if file is None:
            raise UserError(f"dataset.{key}= is missing, as other files of VQAv2 are given.")
    built = {
        name: build_rows(
            vqav2.read_questions,
            vqav2.FEATURES,
            source.on_error,
            paths=("questions", "annotations"),
            origin=str(split.questions),
            **{**vars(split), "image_dir": os.path.realpath(str(split.image_dir))},
        )
        for name, split in named.items()
    }
    return _select(built, "train" if "train" in built else None, "validation")


def _select(built: Mapping[str, Built], train: str | None, validation: str) -> Splits:
    """Return the rows that two specifications such as `train+val[:90%]` name."""
    rows = {name: each.rows for name, each in built.items()}
    skipped = tuple(fault for each in built.values() for fault in each.skipped)
    evaluated = select_split(rows, validation)
    return Splits(select_split(rows, train) if train else evaluated.select([]), evaluated, skipped)


def split_names(spec: str) -> list[str]:
    """Return the names in `train+val[:90%]`."""
    return [re.sub(r"[(\[].*", "", part).strip() for part in spec.split("+")]


def select_split(rows: Mapping[str, Dataset], spec: str) -> Dataset:
    """Return the rows of `train+val[:90%]`, in the syntax of `datasets`.

    Raises:
        UserError: it cannot be read.
    """
    try:
        parts = ReadInstruction.from_spec(spec).to_absolute({name: len(rows[name]) for name in rows})
    except (AssertionError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"Split `{spec}`: {error}") from error
    selected = [
        rows[part.splitname].select(
            range(part.from_ or 0, len(rows[part.splitname]) if part.to is None else part.to)
        )
        for part in parts
    ]
    return selected[0] if len(selected) == 1 else concatenate_datasets(selected)


def _find(release: str | None) -> ReleaseModule:
    known = sorted(module.name for module in pkgutil.iter_modules(releases.__path__))
    if release not in known:
        hint = suggest(release, known) if release else ""
        raise UserError(f"No release dataset.release={release}.{hint} Known: {', '.join(known)}.")
    return cast(ReleaseModule, importlib.import_module(f"finetune.data.releases.{release}"))
