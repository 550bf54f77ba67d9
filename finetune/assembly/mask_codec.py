"""Which mask VAE a run uses: the published one, one's own, or a file; kept in the run's folder."""

import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from finetune.codecs.mask_vae import fetch_mask_vae, load_mask_vae
from finetune.codecs.train_mask_vae import crop_objects, save_mask_vae, train_mask_vae
from finetune.config.datasets import MixtureDataset
from finetune.config.schema import RunConfig
from finetune.errors import UserError
from finetune.tasks.mixture import MixedTask
from finetune.tasks.objects import ObjectsTask
from finetune.tasks.task import Task

log = logging.getLogger(__name__)

MOST_CROPS = 20_000
"""Masks that one's own VAE is trained on, at most: 320 MB of crops."""


def cache_folder() -> Path:
    """Return where what was downloaded or trained once is kept: `FINETUNE_CACHE`, or under `~/.cache`."""
    return Path(os.environ.get("FINETUNE_CACHE") or Path.home() / ".cache" / "finetune_paligemma")


def find_mask_vae(setting: str, rows: Dataset | None = None) -> Path:
    """Return the file of weights that `task.mask_vae` means, made or downloaded at first use.

    Args:
        setting: `published`, `own`, or a file.
        rows: the training split, whose masks one's own VAE learns; needed for `own` alone.

    Raises:
        UserError: it cannot be downloaded or read, or `own` has no rows or no masks to learn from.
    """
    if setting == "published":
        path = cache_folder() / "vae-oid.npz"
        fetch_mask_vae(path)
        return path
    if setting != "own":
        load_mask_vae(Path(setting))
        return Path(setting)
    if rows is None:
        raise UserError(
            "mask_vae=own is trained with a run: give run=FOLDER, or the file itself, such as "
            "runs/NAME/mask_vae.npz."
        )
    path = cache_folder() / f"mask_vae-{rows._fingerprint}.npz"
    if not path.is_file():
        crops = _collect_crops(rows)
        log.info("training a mask VAE on %d masks, once; it is kept at %s", len(crops), path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        save_mask_vae(train_mask_vae(crops), part)
        part.replace(path)
    return path


def _collect_crops(rows: Dataset) -> torch.Tensor:
    crops: list[torch.Tensor] = []
    for row in rows.select_columns(["width", "height", "objects"]):
        crops += crop_objects(row["objects"], (row["height"], row["width"]))
        if len(crops) >= MOST_CROPS:
            break
    if not crops:
        raise UserError("task.mask_vae=own learns from the training split's masks, but it has none.")
    return torch.stack(crops[:MOST_CROPS])


def keep_mask_vae(task: Task, target: Path) -> None:
    """Copy the weights that a task writes masks with into the run's folder, where it has any.

    The run's answers can then be read wherever the folder is moved.
    """
    tasks = task.tasks.values() if isinstance(task, MixedTask) else [task]
    for one in tasks:
        if isinstance(one, ObjectsTask) and one.masks and one.mask_vae and not target.is_file():
            shutil.copyfile(one.mask_vae, target)


def use_mask_vae(config: RunConfig, file: Path) -> RunConfig:
    """Return a config whose task, or each task of its mixture, writes its masks with these weights."""
    if not isinstance(config.dataset, MixtureDataset):
        return replace(config, task=_with_mask_vae(config.task, file))
    parts = {
        name: {**part, "task": _with_mask_vae(part["task"], file)}
        for name, part in config.dataset.parts.items()
    }
    return replace(config, dataset=replace(config.dataset, parts=parts))


def _with_mask_vae(task: Any, file: Path) -> Any:
    if isinstance(task, dict):
        return {**task, "mask_vae": str(file)} if task.get("masks") else task
    return replace(task, mask_vae=str(file)) if getattr(task, "masks", False) else task
