"""One command: its words, the config composed from them, and the options of its job.

Used by the command line and the Python API. Nothing here imports torch, so that mistakes are reported
before anything heavy is loaded.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from finetune.config.checks import check
from finetune.config.compose import (
    compose_words,
    known_recipes,
    prefer_command_line,
    recipe_label,
    register,
    sweep_name,
    to_options,
    write_recipe,
)
from finetune.config.data_word import write_out
from finetune.config.job import Job
from finetune.config.jobs import JOBS
from finetune.config.messages import list_known
from finetune.config.reads import check_options
from finetune.config.secrets import find_secrets
from finetune.config.words import (
    check_words,
    expand,
    is_sweep,
    keys_of,
    name_bare_words,
    rewrite,
    split_flags,
)
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
    recognized: str | None = None
    """What `data=` was recognized as, and the words that it stands for."""


def read_line(job: str, words: list[str]) -> Line:
    """Check the words, before anything is composed, and translate them for Hydra.

    Raises:
        UserError: a word is invalid, or the job would ignore it.
    """
    sweeping = is_sweep(words)
    typed, flags = split_flags(words)
    typed = name_bare_words(job, typed)
    check_words(typed)
    typed, recognized = write_out(job, typed, sweeping)
    check_options(job, typed)
    overrides = [new for word in typed for new in rewrite(word, sweeping)]
    check_words(overrides)
    has_own_sweeper = any(word.startswith(("hydra/sweeper", "hydra.sweeper")) for word in overrides)
    register(job, overrides)
    members = expand(overrides) if sweeping and not has_own_sweeper else None
    return Line(job, typed, flags, overrides, members, recognized)


@dataclass(frozen=True)
class Command:
    """One composed config, with what it was composed from."""

    job: str
    composed: DictConfig
    """The config from Hydra; `check` changes it in place."""
    choices: dict[str, str]
    """Chosen file of each group."""
    overrides: list[str]
    """Words that the config was composed from, in Hydra's grammar."""
    member: int | None = None
    """Number of the run in a sweep."""

    def check(self) -> tuple[Job, Path]:
        """Check the config, and return the job's options and the folder of its run.

        Raises:
            UserError: lists the invalid settings.
        """
        composed, run = self.composed, self.composed.get("run")
        if not JOBS[self.job].needs_data and run is None:
            composed.dataset = None
        elif OmegaConf.is_missing(composed, "dataset") or composed.dataset is None:
            names = list_known("recipe", [*known_recipes()])
            raise UserError(f"No dataset: give recipe=NAME or dataset=NAME. {names}")
        if OmegaConf.is_missing(composed.model, "path"):
            raise UserError(
                "Which checkpoint? model=HUB_ID, such as model=google/paligemma-3b-pt-224, model=FOLDER, "
                "or a choice such as model=tiny."
            )
        prefer_command_line(composed, self.overrides)
        options = to_options(composed)
        if run is not None and self.job in {"evaluate", "export", "merge", "predict", "demo", "report"}:
            # The one that its training continued; the result has its own.
            options.adapter = options.adapter_revision = None
        name = self._name()
        check(options, composed, name if run is None else None)
        values = OmegaConf.to_container(composed, resolve=True, enum_to_str=True)
        for problem in find_secrets(values, keys_of()):
            raise UserError(problem)
        return options, options.folder(name)

    def _name(self) -> str:
        """Return the name of the run's folder in `runs_dir`."""
        recipe, run_name = self.choices.get("recipe"), self.composed.get("run_name")
        if self.member is not None:
            return f"{sweep_name(run_name, recipe)}/{self.member}"
        # An evaluation without run= gets its own folder, so that it never replaces a training's score.
        suffix = "_evaluate" if self.job == "evaluate" else ""
        return f"{recipe_label(recipe) or 'run'}{suffix}" if run_name is None else run_name

    def prepare(self, words: list[str]) -> tuple[Job, Launch]:
        """Check the config, and return the job's options and its `Launch`.

        Args:
            words: words that repeat the run.

        Raises:
            UserError: lists the invalid settings.
        """
        options, folder = self.check()
        command = [*launcher(), "-m", "finetune", self.job, *words]
        return options, Launch(folder, write_recipe(self.composed, self.choices), command)


def compose_command(job: str, overrides: list[str], member: int | None = None) -> Command:
    """Compose the config of one command.

    Args:
        job: its name.
        overrides: `key=value` words in Hydra's grammar.
        member: number of the run in a sweep.

    Raises:
        UserError: see `compose_words`.
    """
    return Command(job, *compose_words(overrides, job), overrides, member)


def launcher() -> list[str]:
    """Return the program that started this process: `python` or `torchrun`."""
    processes = os.environ.get("LOCAL_WORLD_SIZE")
    return ["python"] if processes is None else ["torchrun", "--nproc-per-node", processes]
