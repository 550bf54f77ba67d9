"""The mask VAE of a run, kept in its folder: the published one, a file, or one trained on its data."""

import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from datasets import Dataset

from finetune.assembly.custom import object_options
from finetune.codecs.mask_vae import cache_folder, find_weights, load_mask_vae
from finetune.codecs.train_mask_vae import crop_objects, save_mask_vae, train_mask_vae
from finetune.config.schema import RunConfig
from finetune.data.options import Mixture
from finetune.errors import UserError
from finetune.tasks.objects import object_tasks
from finetune.tasks.task import Task, TaskOptions

log = logging.getLogger(__name__)

RunOptions = TypeVar("RunOptions", bound=RunConfig)

MOST_CROPS = 20_000
"""Most masks that `own` is trained on: 320 MB of crops."""


def find_mask_vae(setting: str, rows: Dataset | None = None) -> Path:
    """Return the weights file for `task.mask_vae`, trained or downloaded at first use.

    Args:
        setting: `published`, `own`, or a file.
        rows: the training split; `own` needs rows and is trained on their masks.

    Raises:
        UserError: the file cannot be downloaded or read, or there are no rows or masks to train `own` on.
    """
    if setting != "own":
        file = find_weights(setting)
        load_mask_vae(file)
        return file
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
    """Copy the mask VAE of a task, if any, into the run's folder: no other can read its answers."""
    files = {part.reader.mask_vae for part in object_tasks(task).values()} - {None}
    for file in sorted(map(str, files))[:1]:
        if not target.is_file():
            shutil.copyfile(find_weights(file), target)


def use_mask_vae(config: RunOptions, file: Path) -> RunOptions:
    """Return a config whose task, or each task of its mixture, uses these weights for masks."""
    if not isinstance(config.dataset, Mixture):
        return replace(config, task=_with_mask_vae(config.task, file))
    parts = {
        name: replace(part, task=_with_mask_vae(part.task, file))
        for name, part in config.dataset.parts.items()
    }
    return replace(config, dataset=replace(config.dataset, parts=parts))


def _with_mask_vae(task: TaskOptions | dict[str, Any], file: Path) -> TaskOptions | dict[str, Any]:
    options = object_options(task)
    return task if options is None or not options.masks else replace(options, mask_vae=str(file))
