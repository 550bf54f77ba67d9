"""The command line: read the words, compose the config, hand it to the job they name.

Nothing here imports torch: help and mistakes answer before anything heavy is loaded.
"""

import ast
import importlib
import logging
import os
import shlex
import sys
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from finetune import signals
from finetune.config.checks import check, check_name
from finetune.config.compose import (
    CONF_DIR,
    chosen,
    compose_words,
    forget_own_recipes,
    known_recipes,
    prefer_command_line,
    recipe_label,
    register,
    sweep_name,
    to_options,
    write_recipe,
)
from finetune.config.help import job_help, overview
from finetune.config.jobs import JOBS, Job
from finetune.config.messages import explain
from finetune.config.reads import check_options
from finetune.config.secrets import find_secrets
from finetune.config.words import (
    check_words,
    expand,
    is_sweep,
    keys_of,
    member_words,
    rewrite,
    split_flags,
    swept_values,
)
from finetune.errors import UserError, guard_terminal, printable, suggest
from finetune.run.folder import Launch

USER_MISTAKE = 2
BROKEN_PIPE = 141
_LONG = {None, "train", "evaluate"}
"""Jobs that did not do their work where nobody reads on."""
_MOST_PROBLEMS = 5


@dataclass(frozen=True)
class Line:
    """One command line."""

    job: str
    words: list[str]
    """`key=value` words as the user typed them."""
    flags: list[str]
    """Words for Hydra itself, such as `-m` and `--cfg job`."""
    overrides: list[str]
    """The `key=value` words in Hydra's own grammar."""
    members: list[list[str]] | None
    """The overrides of each run of a sweep; None for a single run, or a sweeper that finds them itself."""


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the words after `python -m finetune`; the process's own where None.
    """
    guard_terminal()
    words = list(sys.argv[1:] if argv is None else argv)
    forget_own_recipes()
    with signals.listening():
        return _answer(words)


def _answer(words: list[str]) -> int:
    """Run one command, and say in a line what ended it where it did not end by itself."""
    job: str | None = None
    asks_for_help = not {"--help", "-h"}.isdisjoint(words)
    try:
        job, words = split_job(words)
        if asks_for_help:
            print(job_help(job, _doc(job)) if job else overview(), flush=True)
            return 0
        _run(read_line(job or "train", words))
        sys.stdout.flush()
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if os.environ.get("FINETUNE_DEBUG") == "1":
            print(printable(traceback.format_exc()), file=sys.stderr)
        message = str(error) if isinstance(error, UserError) else explain(error)
        _say(f"error: {message}")
        return USER_MISTAKE
    except signals.Interrupted as interrupted:
        _say(f"{interrupted}: stopped. {signals.advice()}".rstrip())
        return interrupted.exit_code
    except BrokenPipeError:
        # Whoever read the output has seen enough; Python would complain again when it closes the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE if job in _LONG and not asks_for_help else 0
    return 0


def _say(text: str) -> None:
    """Print a message for the user, once however many processes there are."""
    if os.environ.get("RANK", "0") == "0":
        print(printable(text), file=sys.stderr, flush=True)


def split_job(words: list[str]) -> tuple[str | None, list[str]]:
    """Take the job's name off the words; None where it was left out.

    Raises:
        UserError: a bare word that names no job.
    """
    if not words or "=" in words[0] or words[0].startswith(("-", "+", "~")):
        return None, words
    if words[0] not in JOBS:
        known = ", ".join(JOBS)
        recipe = f" Did you mean recipe={words[0]}?" if words[0] in known_recipes() else ""
        near = recipe or suggest(words[0], list(JOBS))
        raise UserError(f"No job `{words[0]}`.{near} Known jobs: {known}.")
    return words[0], words[1:]


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


def _doc(job: str) -> str:
    """Read the job's own text without importing what it imports."""
    source = Path(__file__).with_name("jobs") / f"{job}.py"
    return ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""


def _run(line: Line) -> None:
    """Run the job once, or for each run of a sweep."""
    if line.flags:
        _run_hydra(line)
        return
    composed, choices = compose_words(line.overrides, line.job)
    _run_job(line, composed, choices, line.words, line.overrides)


def _check(
    job: str, composed: DictConfig, choices: dict[str, str], overrides: list[str], member: int | None
) -> tuple[Job, Path]:
    """Check one composed config, and find the folder of its run.

    Args:
        job: its name.
        composed: as Hydra composed it; what the command line decides for it is written into it.
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
    # A score of its own never lies in a training's folder.
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


def _run_job(
    line: Line,
    composed: DictConfig,
    choices: dict[str, str],
    words: list[str],
    overrides: list[str],
    member: int | None = None,
) -> None:
    """Check one composed config and hand it to its job."""
    config, folder = _check(line.job, composed, choices, overrides, member)
    launch = Launch(
        folder=folder,
        recipe=write_recipe(composed, choices),
        command=[*_launcher(), "-m", "finetune", line.job, *words],
    )
    importlib.import_module("finetune.assembly.custom").check_targets(config)
    quiet_libraries()
    importlib.import_module(f"finetune.jobs.{line.job}").run(config, launch)


def _run_hydra(line: Line) -> None:
    """Let Hydra run the job, for each run of a sweep, or show the config where a flag asks for it."""
    # Hydra would print and exit by itself; raised errors reach `explain` instead.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sweep = Sweep(line) if is_sweep(line.flags) else None
    if sweep is not None:
        sweep.check()

    @hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")
    def run(composed: DictConfig) -> None:
        runtime = HydraConfig.get()
        overrides = list(runtime.overrides.task)
        if sweep is None:
            _run_job(line, composed, chosen(runtime), line.words, overrides)
        else:
            sweep.run(composed, chosen(runtime), overrides, int(runtime.job.num))

    before = sys.argv
    sys.argv = [before[0], *line.overrides, *line.flags]
    try:
        run()
    except (KeyboardInterrupt, SystemExit):
        if sweep is not None:
            sweep.say_how_to_resume()
        raise
    finally:
        sys.argv = before
    if sweep is not None:
        sweep.report()


class Sweep:
    """The runs of a sweep: checked together, then run one after the other whatever happens to one.

    Args:
        line: the command line; the runs are in its `members`.
    """

    def __init__(self, line: Line) -> None:
        self.line = line
        self.process = os.getpid()
        self.failed: list[int] = []

    def check(self) -> None:
        """Compose and check every run before the first one starts.

        Raises:
            UserError: names each run that cannot be, with its values.
        """
        problems = []
        for number, member in enumerate(self.line.members or []):
            composed, choices = compose_words(member, self.line.job)
            try:
                _check(self.line.job, composed, choices, member, number)
            except UserError as error:
                problems.append(f"{self._name(number, member)}: {error}")
        if problems:
            raise UserError("\n".join(["No run of the sweep was started.", *problems[:_MOST_PROBLEMS]]))

    def run(self, composed: DictConfig, choices: dict[str, str], overrides: list[str], number: int) -> None:
        """Run one of them; a mistake in it is reported and does not stop the others.

        Raises:
            UserError: the run's own, where a launcher started it in another process.
        """
        words = member_words(self.line.words, overrides)
        if not any(word.startswith("run=") for word in words):
            folder = sweep_name(composed.get("run_name"), choices.get("recipe"))
            words = [word for word in words if not word.startswith("run_name=")]
            words.append(f"run_name={folder}/{number}")
        stream = sys.stdout if JOBS[self.line.job].needs_data else sys.stderr
        if os.environ.get("RANK", "0") == "0":
            print(self._name(number, overrides), file=stream, flush=True)
        try:
            _run_job(self.line, composed, choices, words, overrides, number)
        except UserError as error:
            if os.getpid() != self.process:
                raise
            self.failed.append(number)
            print(
                printable(f"error: {self._name(number, overrides)}: {error}"), file=sys.stderr, flush=True
            )

    def report(self) -> None:
        """End with an error where a run failed.

        Raises:
            UserError: names the runs.
        """
        if self.failed:
            numbers = ", ".join(map(str, self.failed))
            raise UserError(f"{len(self.failed)} of {self._count()} runs of the sweep failed: {numbers}.")

    def say_how_to_resume(self) -> None:
        """Print the command that goes on with the whole sweep."""
        words = [word for word in self.line.words if not word.startswith(("overwrite=", "resume="))]
        command = shlex.join([*_launcher(), "-m", "finetune", self.line.job, *self.line.flags, *words])
        print(f"The whole sweep goes on with:\n  {command} resume=true", file=sys.stderr, flush=True)

    def _name(self, number: int, overrides: list[str]) -> str:
        values = swept_values(self.line.words, overrides)
        return f"run {number} of the sweep's {self._count()}" + (f" ({values})" if values else "")

    def _count(self) -> int | str:
        return "?" if self.line.members is None else len(self.line.members)


def _launcher() -> list[str]:
    """Return the program that started this process, as far as it can be told."""
    processes = os.environ.get("LOCAL_WORLD_SIZE")
    return ["python"] if processes is None else ["torchrun", "--nproc-per-node", processes]


def quiet_libraries() -> None:
    """Keep other libraries' chatter off the terminal, before they are imported.

    Deprecations inside transformers and peft, bitsandbytes' report of a CPU kernel that nobody needs,
    each retry of a Hub that cannot be reached. `FINETUNE_DEBUG=1` shows it all.
    """
    if os.environ.get("FINETUNE_DEBUG") == "1":
        return
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # its import sets the level of its logger
    for name in ("bitsandbytes", "httpx", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="(torch|peft|bitsandbytes)")
