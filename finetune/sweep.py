"""The runs of a sweep, one after the other."""

import os
import shlex
import sys
from collections.abc import Callable

from omegaconf import DictConfig

from finetune.command import Line, check_command, launcher
from finetune.config.compose import compose_words, sweep_name
from finetune.config.jobs import JOBS
from finetune.config.words import member_words, swept_values
from finetune.errors import UserError, printable

_MOST_PROBLEMS = 5

RunJob = Callable[[Line, DictConfig, dict[str, str], list[str], list[str], int | None], float | None]
"""(line, composed config, choices, words, overrides, number) -> the objective; see `cli.run_job`."""


class Sweep:
    """The runs of a sweep: checked together, then run one after the other even if one fails.

    Args:
        line: the command line, with the runs in `members`.
        run_job: runs one of them.
    """

    def __init__(self, line: Line, run_job: RunJob) -> None:
        self.line = line
        self.run_job = run_job
        self.process = os.getpid()
        self.failed: list[int] = []

    def check(self) -> None:
        """Compose and check every run before the first one starts.

        Raises:
            UserError: names each invalid run, with its values.
        """
        problems = []
        for number, member in enumerate(self.line.members or []):
            composed, choices = compose_words(member, self.line.job)
            try:
                check_command(self.line.job, composed, choices, member, number)
            except UserError as error:
                problems.append(f"{self._name(number, member)}: {error}")
        if problems:
            raise UserError("\n".join(["No run of the sweep was started.", *problems[:_MOST_PROBLEMS]]))

    def run(
        self, composed: DictConfig, choices: dict[str, str], overrides: list[str], number: int
    ) -> float | None:
        """Run one of them; an error in it is reported and does not stop the others.

        Returns:
            Its objective, for a sweeper that searches; None if it failed.

        Raises:
            UserError: the run failed in another process, which a launcher started.
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
            return self.run_job(self.line, composed, choices, words, overrides, number)
        except UserError as error:
            if os.getpid() != self.process:
                raise
            self.failed.append(number)
            print(
                printable(f"error: {self._name(number, overrides)}: {error}"), file=sys.stderr, flush=True
            )
            return None

    def report(self) -> None:
        """Raise an error if a run failed.

        Raises:
            UserError: names the failed runs.
        """
        if self.failed:
            numbers = ", ".join(map(str, self.failed))
            raise UserError(f"{len(self.failed)} of {self._count()} runs of the sweep failed: {numbers}.")

    def print_resume_command(self) -> None:
        """Print the command that continues the whole sweep."""
        words = [word for word in self.line.words if not word.startswith(("overwrite=", "resume="))]
        command = shlex.join([*launcher(), "-m", "finetune", self.line.job, *self.line.flags, *words])
        print(f"Continue the whole sweep with:\n  {command} resume=true", file=sys.stderr, flush=True)

    def _name(self, number: int, overrides: list[str]) -> str:
        values = swept_values(self.line.words, overrides)
        return f"run {number} of the sweep's {self._count()}" + (f" ({values})" if values else "")

    def _count(self) -> int | str:
        return "?" if self.line.members is None else len(self.line.members)
