"""The command line: read the words, compose the config, run the job, print its result.

Nothing here imports torch, so that help and error messages appear before anything heavy is loaded.
"""

import ast
import importlib
import logging
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from finetune import progress, signals
from finetune.command import Command, Line, compose_command, read_line
from finetune.config.compose import (
    CONF_DIR,
    chosen,
    describe_kept,
    forget_own_recipes,
    known_recipes,
)
from finetune.config.data_word import describe_choices
from finetune.config.help import job_help, overview
from finetune.config.jobs import JOBS
from finetune.config.messages import explain
from finetune.config.words import is_sweep
from finetune.errors import UserError, guard_terminal, is_debugged, printable, suggest
from finetune.run.log import show_on_terminal, unchanged_logging
from finetune.sweep import Sweep

if TYPE_CHECKING:
    from finetune.result import Result

USER_MISTAKE = 2
BROKEN_PIPE = 141
_LONG = {None, "train", "evaluate"}
"""Jobs that have not finished when the reader of their output closes the pipe."""

log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the words after `python -m finetune`; None for those of this process.
    """
    guard_terminal()
    words = list(sys.argv[1:] if argv is None else argv)
    forget_own_recipes()
    with signals.listening(), unchanged_logging(), progress.shown():
        return _answer(words)


def _answer(words: list[str]) -> int:
    """Run one command, and report the reason in a line if it stops early."""
    job: str | None = None
    asks_for_help = not {"--help", "-h"}.isdisjoint(words)
    try:
        job, words = split_job(words)
        if asks_for_help:
            print(job_help(job, _doc(job)) if job else overview(), flush=True)
            return 0
        quiet_libraries()
        _run(read_line(job or "train", words))
        sys.stdout.flush()
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if is_debugged():
            print(printable(traceback.format_exc()), file=sys.stderr)
        message = str(error) if isinstance(error, UserError) else explain(error)
        _say(f"error: {message}")
        return USER_MISTAKE
    except signals.Interrupted as interrupted:
        _say(f"{interrupted}: stopped. {signals.advice()}".rstrip())
        return interrupted.exit_code
    except BrokenPipeError:
        # The reader, such as `head`, has closed the pipe; flushing it at exit would fail again. Source:
        # https://docs.python.org/3/library/signal.html#note-on-sigpipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE if job in _LONG and not asks_for_help else 0
    return 0


def _say(text: str) -> None:
    """Print a message for the user, from one process only."""
    if os.environ.get("RANK", "0") == "0":
        print(printable(text), file=sys.stderr, flush=True)


def split_job(words: list[str]) -> tuple[str | None, list[str]]:
    """Split the job's name from the words; None if it was omitted.

    Raises:
        UserError: a bare word that is not a job.
    """
    if not words or "=" in words[0] or words[0].startswith(("-", "+", "~")):
        return None, words
    if words[0] not in JOBS:
        known = ", ".join(JOBS)
        recipe = f" Did you mean recipe={words[0]}?" if words[0] in known_recipes() else ""
        near = recipe or suggest(words[0], list(JOBS))
        raise UserError(f"No job `{words[0]}`.{near} Known jobs: {known}.")
    return words[0], words[1:]


def _doc(job: str) -> str:
    """Read the job's docstring without importing the module."""
    source = Path(__file__).with_name("jobs") / f"{job}.py"
    return ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""


def _run(line: Line) -> None:
    """Run the job once, or for each run of a sweep."""
    if line.flags:
        _show(line, line.recognized)
        _run_hydra(line)
        return
    command = compose_command(line.job, line.overrides)
    if line.recognized is not None:
        _show(line, f"{line.recognized}\n  {describe_choices(command.composed, command.choices)}")
    run_job(command, line.words)


def _show(line: Line, recognized: str | None) -> None:
    """Print what was recognized, unless standard output is for a config that a flag requests."""
    is_shown = not line.flags or is_sweep(line.flags)
    if recognized is not None and is_shown and os.environ.get("RANK", "0") == "0":
        print(printable(recognized), flush=True)


def run_job(command: Command, words: list[str]) -> float | None:
    """Check one composed config, run its job and print the result.

    Args:
        command: the job and its config.
        words: words that repeat the run.

    Returns:
        The objective, for a sweeper that searches; None if the job has none.

    Raises:
        UserError: a mistake in the options or the data.
        SystemExit: a signal stopped the training; a checkpoint was saved, and the next command logged.
    """
    options, launch = command.prepare(words)
    importlib.import_module("finetune.assembly.custom").check_targets(options)
    job = importlib.import_module(f"finetune.jobs.{command.job}")
    show_on_terminal("stdout" if JOBS[command.job].needs_data else "stderr")
    if (kept := describe_kept(command.composed, command.overrides)) is not None:
        log.warning("warning: %s", kept)
    result: Result = job.run(options, launch)
    result.show()
    if result.interrupted is not None:
        raise SystemExit(128 + result.interrupted)
    if result.exit_code:
        raise SystemExit(result.exit_code)
    return None if result.objective is None else result.objective.value


def _run_hydra(line: Line) -> None:
    """Let Hydra run the job, for each run of a sweep, or show the config if a flag requests it."""
    # Otherwise Hydra prints errors and exits; raised, they reach `explain`.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sweep = Sweep(line, run_job) if is_sweep(line.flags) else None
    if sweep is not None:
        sweep.check()

    @hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")
    def run(composed: DictConfig) -> float | None:
        runtime = HydraConfig.get()
        member = None if sweep is None else int(runtime.job.num)
        command = Command(line.job, composed, chosen(runtime), list(runtime.overrides.task), member)
        return run_job(command, line.words) if sweep is None else sweep.run(command)

    before = sys.argv
    sys.argv = [before[0], *line.overrides, *line.flags]
    try:
        run()
    except (KeyboardInterrupt, SystemExit):
        if sweep is not None:
            sweep.print_resume_command()
        raise
    finally:
        sys.argv = before
    if sweep is not None:
        sweep.report()


def quiet_libraries() -> None:
    """Silence libraries before they are imported; `FINETUNE_DEBUG=1` shows their messages.

    These are deprecations inside transformers and peft, bitsandbytes' report of an unused CPU kernel, and
    each retry of an unreachable Hub.
    """
    if is_debugged():
        return
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # its import sets the level of its logger
    for name in ("bitsandbytes", "httpx", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="(torch|peft|bitsandbytes)")
