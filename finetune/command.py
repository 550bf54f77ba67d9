"""One command: its words, the config composed from them, and what its job is started with.

The command line and the Python API both go this way. Nothing here imports torch: mistakes are reported
before anything heavy is loaded.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from finetune.config.checks import check, check_name
from finetune.config.compose import (
    known_recipes,
    prefer_command_line,
    recipe_label,
    register,
    sweep_name,
    to_options,
    write_recipe,
)
from finetune.config.jobs import JOBS, Job
from finetune.config.reads import check_options
from finetune.config.secrets import find_secrets
from finetune.config.words import check_words, expand, is_sweep, keys_of, rewrite, split_flags
from finetune.errors import UserError
from finetune.run.folder import Launch


@dataclass(frozen=True)
class Line:
    """What was asked for."""

    job: str
    words: list[str]
    """`key=value` words as they were typed."""
    flags: list[str]
    """Words for Hydra itself, such as `-m` and `--cfg job`."""
    overrides: list[str]
    """The `key=value` words in Hydra's own grammar."""
    members: list[list[str]] | None
    """The overrides of each run of a sweep; None for a single run, or a sweeper that finds them itself."""


def read_line(job: str, words: list[str]) -> Line:
    """Check the words by themselves, and spell them for Hydra.

    Raises:
        UserError: a word that cannot be meant, or that the job would ignore.
    """
    sweeping = is_sweep(words)
    typed, flags = split_flags(words)
    check_words(typed)
    check_options(job, typed)
    overrides = [new for word in typed for new in rewrite(word, sweeping)]
    check_words(overrides)
    has_own_sweeper = any(word.startswith(("hydra/sweeper", "hydra.sweeper")) for word in overrides)
    register(job)
    members = expand(overrides) if sweeping and not has_own_sweeper else None
    return Line(job, typed, flags, overrides, members)


def check_command(
    job: str, composed: DictConfig, choices: dict[str, str], overrides: list[str], member: int | None
) -> tuple[Job, Path]:
    """Check one composed config, and find the folder of its run.

    Args:
        job: its name.
        composed: as Hydra composed it; changed in place.
        choices: chosen file of each group.
        overrides: the words it was composed from.
        member: its number in a sweep.

    Raises:
        UserError: lists the settings that cannot be.
    """
    run = composed.get("run")
    if not JOBS[job].needs_data and run is None:
        composed.dataset = None
    elif OmegaConf.is_missing(composed, "dataset") or composed.dataset is None:
        raise UserError(
            f"No dataset: give recipe=NAME or dataset=NAME. Known recipes: {', '.join(known_recipes())}."
        )
    if OmegaConf.is_missing(composed.model, "path"):
        raise UserError("Which checkpoint? model=HUB_ID, model=FOLDER, or a choice such as model=tiny.")
    prefer_command_line(composed, overrides)
    options = to_options(composed)
    if run is not None and job in {"evaluate", "predict"}:
        options.adapter = None  # the one that it was trained on from; it has its own now
    check(options, composed)
    recipe = choices.get("recipe")
    # Evaluations without a run have their own folder, never a training's.
    suffix = f"_{job}" if job == "evaluate" else ""
    run_name = composed.get("run_name")
    name = run_name or f"{recipe_label(recipe) or 'run'}{suffix}"
    if member is not None:
        name = f"{sweep_name(run_name, recipe)}/{member}"
    if run is None:
        check_name(name)
    values = OmegaConf.to_container(composed, resolve=True, enum_to_str=True)
    for problem in find_secrets(values, keys_of()):
        raise UserError(problem)
    return options, options.folder(name)


def prepare(
    line: Line,
    composed: DictConfig,
    choices: dict[str, str],
    words: list[str],
    overrides: list[str],
    member: int | None = None,
) -> tuple[Job, Launch]:
    """Check one composed config; return the job's options, and how it is started.

    Args:
        line: names the job.
        composed: as Hydra composed it; changed in place.
        choices: chosen file of each group.
        words: that repeat the run.
        overrides: the words it was composed from.
        member: its number in a sweep.

    Raises:
        UserError: lists the settings that cannot be.
    """
    options, folder = check_command(line.job, composed, choices, overrides, member)
    command = [*launcher(), "-m", "finetune", line.job, *words]
    return options, Launch(folder, write_recipe(composed, choices), command)


def launcher() -> list[str]:
    """Return the program that started this process, as far as it is known."""
    processes = os.environ.get("LOCAL_WORLD_SIZE")
    return ["python"] if processes is None else ["torchrun", "--nproc-per-node", processes]
