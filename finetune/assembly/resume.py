"""Where a resumed run goes on, and whether it is still the same run."""

import logging
import shlex
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from finetune.assembly.sources import RECORDED
from finetune.config.jobs import Train
from finetune.errors import UserError
from finetune.run.checkpoints import Checkpoint, find_resume_point, read_state
from finetune.run.folder import Launch, RunFolder
from finetune.training.callbacks import StopWithoutImprovement
from finetune.training.trainer import PaliGemmaTrainer

log = logging.getLogger(__name__)

MAY_CHANGE = (
    "evaluation.batch_size",
    "evaluation.pictures",
    "tracker",
    "trainer.max_steps",
    "trainer.dataloader_num_workers",
    "trainer.dataloader_prefetch_factor",
    "trainer.save_total_limit",
)
"""Keys that a resumed run may be given anew: none of them changes what is computed, but for the steps."""


def check_folder(config: Train, folder: RunFolder, launch: Launch) -> Checkpoint | None:
    """Check that the run may have its folder, before anything slow is done.

    Returns:
        The checkpoint that a resumed run goes on from; None to start from the beginning.

    Raises:
        UserError: the folder is taken, the settings are not those that the run began with, every checkpoint
            is damaged, or nothing is left to resume of a finished run.
    """
    folder.check(resume=config.resume, overwrite=config.overwrite)
    if not config.resume:
        return None
    check_same_settings(folder.config, launch.recipe)
    point = find_resume_point(
        folder.checkpoints, with_best=config.evaluation.metric_for_best_model is not None
    )
    for damage in point.damage:
        log.warning("warning: %s", damage)
    if point.checkpoint is None:
        if folder.metrics.is_file() or folder.adapter.is_dir() or folder.model.is_dir():
            raise UserError(
                f"resume=true, but {folder.checkpoints} has no complete checkpoint, and {folder.root} has "
                "a result. Start again with overwrite=true, or choose another run_name=."
            )
        log.info("no complete checkpoint in %s: starting from the beginning", folder.checkpoints)
    elif 0 < config.trainer.max_steps < point.checkpoint.step:
        raise UserError(
            f"trainer.max_steps={config.trainer.max_steps}, but {point.checkpoint.folder} is of step "
            f"{point.checkpoint.step}. Give at least that many steps."
        )
    return point.checkpoint


def check_same_settings(file: Path, recipe: str) -> None:
    """Check that a resumed run goes on with what it was started with.

    Raises:
        UserError: names the keys that differ.
    """
    if not file.is_file():
        return
    try:
        before, after = (
            OmegaConf.to_container(OmegaConf.create(text))
            for text in (file.read_text(encoding="utf-8"), recipe)
        )
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(
            f"{file}: expected the settings that the run was started with, but they cannot be read "
            f"({str(error).splitlines()[0]}). Restore the file, or start again with overwrite=true."
        ) from error
    changed = _differences(before, after, "")
    refused = [key for key in changed if not key.startswith(MAY_CHANGE)]
    if refused:
        raise UserError(
            f"resume=true goes on with the settings of {file}, but these differ: "
            f"{', '.join(refused)}. Leave them as they were, or start a new run_name=."
        )
    if "trainer.max_steps" in changed:
        log.warning("trainer.max_steps differs from before: the learning rate follows the new schedule")


def _differences(before: Any, after: Any, prefix: str) -> list[str]:
    if not (isinstance(before, dict) and isinstance(after, dict)):
        # Before the data are read, what is taken from them is not known.
        return [] if before == after or (after is None and RECORDED.fullmatch(prefix)) else [prefix]
    return [
        key
        for name in sorted(before.keys() | after.keys())
        for key in _differences(before.get(name), after.get(name), f"{prefix}.{name}" if prefix else name)
    ]


def has_stopped_early(trainer: PaliGemmaTrainer, start: Checkpoint) -> bool:
    """Return whether the run had stopped before its last step, because nothing improved any more."""
    history: Any = read_state(start)["log_history"]
    callbacks = trainer.callback_handler.callbacks
    return any(isinstance(one, StopWithoutImprovement) and one.is_exhausted(history) for one in callbacks)


def resume_command(launch: Launch) -> str:
    """Return the command that goes on from the last checkpoint."""
    words = [word for word in launch.command if not word.startswith(("overwrite=", "resume="))]
    return shlex.join([*words, "resume=true"])
