"""The runs of a sweep, one after the other."""

import os
import shlex
import sys
from collections.abc import Callable

from finetune.command import Command, Line, compose_command, launcher
from finetune.config.compose import sweep_name
from finetune.config.jobs import JOBS
from finetune.config.words import member_words, swept_values
from finetune.errors import UserError, printable

_MOST_PROBLEMS = 5


class Sweep:
    """The runs of a sweep: checked together, then run one after the other even if one fails.

    Args:
        line: the command line, with the runs in `members`.
        run_job: runs one of them, see `cli.run_job`.
    """

    def __init__(self, line: Line, run_job: Callable[[Command, list[str]], float | None]) -> None:
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
            command = compose_command(self.line.job, member, number)
            try:
                command.check()
            except UserError as error:
                problems.append(f"{self._name(number, member)}: {error}")
        if problems:
            raise UserError("\n".join(["No run of the sweep was started.", *problems[:_MOST_PROBLEMS]]))

    def run(self, command: Command) -> float | None:
        """Run one of them; an error in it is reported and does not stop the others.

        Returns:
            Its objective, for a sweeper that searches; None if it failed.

        Raises:
            UserError: the run failed in another process, which a launcher started.
        """
        words, number = member_words(self.line.words, command.overrides), command.member
        assert number is not None
        if not any(word.startswith("run=") for word in words):
            folder = sweep_name(command.composed.get("run_name"), command.choices.get("recipe"))
            words = [word for word in words if not word.startswith("run_name=")]
            words.append(f"run_name={folder}/{number}")
        stream = sys.stdout if JOBS[self.line.job].needs_data else sys.stderr
        name = self._name(number, command.overrides)
        if os.environ.get("RANK", "0") == "0":
            print(name, file=stream, flush=True)
        try:
            return self.run_job(command, words)
        except UserError as error:
            if os.getpid() != self.process:
                raise
            self.failed.append(number)
            print(printable(f"error: {name}: {error}"), file=sys.stderr, flush=True)
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
