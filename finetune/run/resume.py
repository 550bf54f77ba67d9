"""Where a resumed run continues, and whether it has the same settings."""

import logging
import math
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from finetune.errors import UserError
from finetune.run.checkpoints import Checkpoint, find_resume_point
from finetune.run.environment import read_environment
from finetune.run.folder import RunFolder

log = logging.getLogger(__name__)

MAX_STEPS = "trainer.max_steps"

MAY_CHANGE = (
    "adapter_base",
    "evaluation.batch_size",
    "evaluation.pictures",
    "model.hub_id",
    "tracker",
    "trainer.activation_checkpointing",
    MAX_STEPS,
    "trainer.dataloader_num_workers",
    "trainer.dataloader_prefetch_factor",
    "trainer.save_total_limit",
    "trainer.speed",
)
"""Keys that may change on resume: except for the number of steps, none of them changes what is computed.
Of `trainer.speed`, all but `group_steps`, which decides the order of the examples; where it sorts several
steps together, the number of steps decides it too."""

GROUP_STEPS = "trainer.speed.group_steps"

OF_BATCH = (
    "trainer.per_device_train_batch_size",
    "trainer.gradient_accumulation_steps",
)
"""Keys that may change on resume as long as a step has as many examples as before."""


def find_start(folder: RunFolder, *, max_steps: int, with_best: bool) -> Checkpoint | None:
    """Return the checkpoint from which a resumed run continues; None to start from the beginning.

    Args:
        folder: folder of the run.
        max_steps: number of steps; not positive if the epochs determine it.
        with_best: the best checkpoint must be undamaged too, because it may become the result.

    Raises:
        UserError: every checkpoint is damaged or later than `max_steps`, or a finished run has none.
    """
    point = find_resume_point(folder.checkpoints, with_best=with_best)
    for damage in point.damage:
        log.warning("warning: %s", damage)
    if point.checkpoint is None:
        if folder.metrics.is_file() or folder.adapter.is_dir() or folder.model.is_dir():
            raise UserError(
                f"resume=true, but {folder.checkpoints} has no complete checkpoint, and {folder.root} has "
                "a result. Start again with overwrite=true, or choose another run_name=."
            )
        log.info("no complete checkpoint in %s: starting from the beginning", folder.checkpoints)
    elif 0 < max_steps < point.checkpoint.step:
        raise UserError(
            f"trainer.max_steps={max_steps}, but {point.checkpoint.folder} is of step "
            f"{point.checkpoint.step}. Give at least that many steps."
        )
    return point.checkpoint


def check_same_batch(folder: RunFolder, global_batch_size: int | None, processes: int) -> None:
    """Check that a step of a resumed run has as many examples as before.

    Args:
        folder: of the run.
        global_batch_size: `trainer.global_batch_size`; None: a step has more examples on more processes.
        processes: that continue the run.

    Raises:
        UserError: it has others, so that examples would be left out or seen twice.
    """
    before = read_environment(folder.environment).get("processes")
    if global_batch_size is None and isinstance(before, int) and before != processes:
        raise UserError(
            f"resume=true: {before} process{'' if before == 1 else 'es'} trained, {processes} would go on. "
            "Without trainer.global_batch_size, steps would have other examples: start as many as before."
        )


def check_same_rows(folder: RunFolder, rows: Mapping[str, object]) -> None:
    """Check that a resumed run has the rows that it was started with.

    Args:
        folder: of the run.
        rows: `Data.identity`.

    Raises:
        UserError: they differ: the order of the examples follows from their number, and evaluations before
            and after would not compare.
    """
    before = read_environment(folder.environment).get("rows") if folder.is_begun else None
    for name, now in rows.items():
        if isinstance(before, dict) and before.get(name, now) != now:
            raise UserError(
                f"resume=true: the {name} rows are not those that the run was started with ("
                f"{_describe_rows(before[name])}; now {_describe_rows(now)}). Restore the data, or start "
                "with the new ones under another run_name=."
            )


def _describe_rows(rows: object) -> str:
    known = rows if isinstance(rows, dict) else {}
    return f"{known.get('rows')} rows, digest {str(known.get('digest'))[:12]}"


def check_same_settings(
    file: Path, recipe: str, from_data: re.Pattern[str], load: Callable[[Path], DictConfig]
) -> None:
    """Check that a resumed run has the settings that it was started with.

    Args:
        file: settings of the first start, if there was one.
        recipe: text of the new settings.
        from_data: keys that are `null` in `recipe` until the data is read.
        load: reads the file, of an older version too.

    Raises:
        UserError: settings differ; names the keys.
    """
    if not file.is_file():
        return
    try:
        before, after = (OmegaConf.to_container(node) for node in (load(file), OmegaConf.create(recipe)))
    except (UserError, OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(
            f"{file}: expected the settings that the run was started with, but they cannot be read "
            f"({str(error).splitlines()[0]}). Restore the file, or start again with overwrite=true."
        ) from error
    if (choices := _choices(before)) != _choices(after):
        raise UserError(
            f"resume=true continues with the settings of {file}, but another dataset, task or metric is "
            f"chosen, or parts or metrics are in another order: it began with {', '.join(choices)}. Leave "
            "them as they were, or start a new run_name=."
        )
    changed = _changed_keys(before, after, from_data)
    grouped = [_count_grouped_steps(settings) for settings in (before, after)]
    allowed: tuple[str, ...] = MAY_CHANGE
    # What is sorted together over several steps depends on the batch of a device and on the last step.
    if grouped != [1, 1]:
        allowed = tuple(key for key in MAY_CHANGE if key != MAX_STEPS)
    elif _count_examples(before) == _count_examples(after):
        allowed += OF_BATCH
    refused = [key for key in changed if not key.startswith(allowed)]
    if grouped[0] != grouped[1]:
        refused.append(GROUP_STEPS)
    if refused:
        raise UserError(
            f"resume=true continues with the settings of {file}, but these differ: "
            f"{', '.join(refused)}. Leave them as they were, or start a new run_name=."
        )
    if MAX_STEPS in changed:
        log.warning("trainer.max_steps differs from before: the learning rate follows the new schedule")


def has_settings(
    file: Path, recipe: str, from_data: re.Pattern[str], load: Callable[[Path], DictConfig]
) -> bool:
    """Return whether a run has exactly these settings, apart from its trackers.

    Args:
        file: settings of the run.
        recipe: text of the settings.
        from_data: keys that are `null` in `recipe` until the data is read.
        load: reads the file, of an older version too.
    """
    try:
        before, after = (OmegaConf.to_container(node) for node in (load(file), OmegaConf.create(recipe)))
    except (UserError, OSError, ValueError, YAMLError, OmegaConfBaseException):
        return False
    changed = [key for key in _changed_keys(before, after, from_data) if not key.startswith("tracker")]
    return not changed and _choices(before) == _choices(after)


def _changed_keys(before: object, after: object, from_data: re.Pattern[str]) -> list[str]:
    return [
        key
        for key, value in _differences(before, after, "")
        # Of the defaults list the values are compared.
        if key != "defaults" and (value is not None or not from_data.fullmatch(key))
    ]


def _choices(settings: object) -> list[str]:
    """Return what the values do not show: who reads them, and the order of parts and metrics."""
    values = settings if isinstance(settings, dict) else {}
    chosen = [
        f"{key.removeprefix('override /')}={choice}"
        for entry in values.get("defaults") or ()
        for key, choice in (entry.items() if isinstance(entry, dict) else ())
        if key in {"override /dataset", "override /task", "override /metric"}
    ]
    groups = ((values.get("dataset") or {}).get("parts"), values.get("metrics"))
    return [*sorted(chosen), *(name for group in groups for name in group or ())]


def _differences(before: object, after: object, prefix: str) -> list[tuple[str, object]]:
    """Return the keys whose values differ, with those in `after`; a missing group equals an empty one."""
    if not (isinstance(before, dict) and isinstance(after, dict)):
        if before in (None, {}) and after in (None, {}):
            return []
        return [] if before == after else [(prefix, after)]
    return [
        difference
        for name in sorted(before.keys() | after.keys())
        for difference in _differences(
            before.get(name), after.get(name), f"{prefix}.{name}" if prefix else name
        )
    ]


def _count_grouped_steps(settings: object) -> object:
    """Return the steps whose examples are sorted together; older runs do not say, and sort none."""
    return (_read_trainer(settings).get("speed") or {}).get("group_steps", 1)


def _read_trainer(settings: object) -> dict[str, Any]:
    trainer = settings.get("trainer") if isinstance(settings, dict) else None
    return trainer if isinstance(trainer, dict) else {}


def _count_examples(settings: object) -> object:
    """Return the examples of a step, on a device where that is what the settings say."""
    trainer = _read_trainer(settings)
    if trainer.get("global_batch_size") is not None:
        return trainer["global_batch_size"]
    return math.prod(trainer.get(key.partition(".")[2], 1) for key in OF_BATCH)


def resume_command(command: Sequence[str]) -> str:
    """Return the command that continues from the last checkpoint.

    Args:
        command: words that started the run.
    """
    words = [word for word in command if not word.startswith(("overwrite=", "resume="))]
    return shlex.join([*words, "resume=true"])
