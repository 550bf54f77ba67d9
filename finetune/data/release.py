"""A published benchmark: the official files under one folder, or a copy on the Hub."""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, ReadInstruction, concatenate_datasets

from finetune.data import releases
from finetune.data.published import Release
from finetune.data.rows import Built, Splits, build_rows
from finetune.errors import UserError, suggest


def load_release(source: Release) -> Splits:
    """Load both splits; files win over the Hub.

    A release is a module in `finetune/data/releases/` with `SPLITS` (the names of the official ones),
    `FEATURES` (the columns) and `read(faults, root, split, **options)`, which yields rows.

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
    accepted = set(inspect.signature(module.read).parameters) - {"faults", "root", "split"}
    for option in source.options:
        if option not in accepted:
            its = ", ".join(sorted(accepted)) or "none"
            raise UserError(f"{release} has no option dataset.options.{option}; it has: {its}.")
    read: dict[str, Built] = {}
    names = [name for spec in (train, validation) if spec for name in split_names(spec)]
    for name in names:
        if name not in module.SPLITS:
            hint, splits = suggest(name, list(module.SPLITS)), ", ".join(module.SPLITS)
            raise UserError(f"{release} has no split `{name}`.{hint} It has: {splits}.")
    for name in names:
        if name not in read:
            read[name] = build_rows(
                module.read,
                module.FEATURES,
                source.on_error,
                paths=("root",),
                root=root,
                split=name,
                **source.options,
            )
    for spec in filter(None, (train, validation)):
        if not any(len(read[name].rows) or read[name].skipped for name in split_names(spec)):
            raise UserError(f"{release} in {root}: the split `{spec}` has no rows.")
    rows = {name: built.rows for name, built in read.items()}
    nothing = Dataset.from_dict({name: [] for name in module.FEATURES}, features=module.FEATURES)
    return Splits(
        select_split(rows, train) if train else nothing,
        select_split(rows, validation),
        tuple(fault for built in read.values() for fault in built.skipped),
    )


def split_names(spec: str) -> list[str]:
    """Return the names in `train+val[:90%]`."""
    return [re.sub(r"[(\[].*", "", part).strip() for part in spec.split("+")]


def select_split(rows: Mapping[str, Dataset], spec: str) -> Dataset:
    """Return what `train+val[:90%]` means, in the words of `datasets`.

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


def _find(release: str | None) -> Any:
    known = sorted(module.name for module in pkgutil.iter_modules(releases.__path__))
    if release not in known:
        hint = suggest(release, known) if release else ""
        raise UserError(f"No release dataset.release={release}.{hint} Known: {', '.join(known)}.")
    return importlib.import_module(f"finetune.data.releases.{release}")
