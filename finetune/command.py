"""One command: its words, the config composed from them, and the options of its job.

Used by the command line and the Python API. Nothing here imports torch, so that mistakes are reported
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
    """A command line, parsed."""

    job: str
    words: list[str]
    """`key=value` words as typed."""
    flags: list[str]
    """Words for Hydra itself, such as `-m` and `--cfg job`."""
    overrides: list[str]
    """The `key=value` words in Hydra's grammar."""
    members: list[list[str]] | None
    """The overrides of each run of a sweep; None for a single run, or a sweeper that chooses them."""


def read_line(job: str, words: list[str]) -> Line:
    """Check the words, before anything is composed, and translate them for Hydra.

    Raises:
        UserError: a word is invalid, or the job would ignore it.
    """
    sweeping = is_sweep(words)
    typed, flags = split_flags(words)
    check_words(typed)
    check_options(job, typed)
    overrides = [new for word in typed for new in rewrite(word, sweeping)]
    check_words(overrides)
    has_own_sweeper = any(word.startswith(("hydra/sweeper", "hydra.sweeper")) for word in overrides)
    register(job, overrides)
    members = expand(overrides) if sweeping and not has_own_sweeper else None
    return Line(job, typed, flags, overrides, members)


def check_command(
    job: str, composed: DictConfig, choices: dict[str, str], overrides: list[str], member: int | None
) -> tuple[Job, Path]:
    """Check one composed config, and return its options and the folder of its run.

    Args:
        job: name of the job.
        composed: the config from Hydra; changed in place.
        choices: chosen file of each group.
        overrides: words that the config was composed from.
        member: number of the run in a sweep.

    Raises:
        UserError: lists the invalid settings.
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
        options.adapter = None  # the one that its training continued; the result has its own
    check(options, composed)
    recipe = choices.get("recipe")
    # An evaluation without run= gets its own folder, so that it never replaces a training's score.
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
    """Check one composed config, and return the job's options and its `Launch`.

    Args:
        line: names the job.
        composed: the config from Hydra; changed in place.
        choices: chosen file of each group.
        words: words that repeat the run.
        overrides: words that the config was composed from.
        member: number of the run in a sweep.

    Raises:
        UserError: lists the invalid settings.
    """
    options, folder = check_command(line.job, composed, choices, overrides, member)
    command = [*launcher(), "-m", "finetune", line.job, *words]
    return options, Launch(folder, write_recipe(composed, choices), command)


def launcher() -> list[str]:
    """Return the program that started this process: `python` or `torchrun`."""
    processes = os.environ.get("LOCAL_WORLD_SIZE")
    return ["python"] if processes is None else ["torchrun", "--nproc-per-node", processes]
