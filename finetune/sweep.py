"""The runs of a sweep, one after the other."""

import importlib
import os
import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from finetune.command import Command, Line, compose_command, launcher, read_line
from finetune.config.compose import sweep_name
from finetune.config.jobs import JOBS, Train
from finetune.config.words import member_words, swept_values
from finetune.errors import UserError, printable
from finetune.publish.options import PushAtEnd

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
        self.failed: dict[str, str] = {}
        self._folder: Path | None = None
        self._used: set[int] = set()
        self._push: DictConfig | None = None

    def check(self) -> None:
        """Compose and check every run before the first one starts.

        Raises:
            UserError: names each invalid run, with its values.
        """
        problems, pushes = [], []
        for number, member in enumerate(self.line.members or []):
            command = compose_command(self.line.job, member, number)
            try:
                options, _ = command.check()
                pushes += [options.push] if isinstance(options, Train) and options.push.at_end else []
            except UserError as error:
                problems.append(f"{self._name(number, member)}: {error}")
        if problems:
            raise UserError("\n".join(["No run of the sweep was started.", *problems[:_MOST_PROBLEMS]]))
        if pushes:
            importlib.import_module("finetune.jobs.push").check_at_end(pushes[0])

    def run(self, command: Command) -> float | None:
        """Run one of them; an error in it is reported and does not stop the others.

        Returns:
            Its objective, for a sweeper that searches; None if it failed.

        Raises:
            UserError: the run failed in another process, which a launcher started.
        """
        words, number = member_words(self.line.words, command.overrides), command.member
        words = self._keep_push(command, words)
        assert number is not None
        name, done = self._name(number, command.overrides), None
        if not any(word.startswith("run=") for word in words):
            sweep = sweep_name(command.composed.get("run_name"), command.choices.get("recipe"))
            self._folder = Path(command.composed.runs_dir) / sweep
            if self.line.job == "train":
                number, done = self._choose_folder(command)
                if number != command.member:
                    name += f" in {self._folder}/{number}"
                    with suppress(OSError):  # Hydra has made one for its own number
                        (self._folder / str(command.member)).rmdir()
                command = replace(command, member=number)
            words = [word for word in words if not word.startswith("run_name=")]
            words.append(f"run_name={sweep}/{number}")
        self._say(printable(name))
        if done is not None:
            self._say(f"skipped: {self._folder}/{number} has its result; overwrite=true trains it again")
            return done
        try:
            return self.run_job(command, words)
        except UserError as error:
            if os.getpid() != self.process:
                raise
            self.failed[str(number)] = str(error)
            print(printable(f"error: {name}: {error}"), file=sys.stderr, flush=True)
            return None

    def _keep_push(self, command: Command, words: list[str]) -> list[str]:
        """Return a run's words without what it would push: of a sweep only the best run is pushed."""
        if self.line.job == "train" and command.composed.push.at_end:
            self._push = command.composed.push
            command.composed.push = PushAtEnd()
            return [word for word in words if not word.startswith("push.")]
        return words

    def _push_best(self, best: Path | None) -> None:
        """Push the best run of a sweep, if that was asked for.

        Raises:
            UserError: a run failed, the runs cannot be compared, or the push fails.
        """
        if self._push is None:
            return
        if best is None or self.failed:
            why = "runs of the sweep failed" if self.failed else "it is not clear which run is the best"
            raise UserError(f"Nothing was pushed, because {why}. The job `push` pushes any of them.")
        given = [word.removeprefix("push.") for word in self.line.words if word.startswith("push.")]
        words = [f"run={best}", *(word for word in given if not word.startswith("at_end="))]
        line = read_line("push", words)
        try:
            self.run_job(compose_command("push", line.overrides), words)
        except UserError as error:
            again = shlex.join([*launcher(), "-m", "finetune", "push", *words])
            raise UserError(
                f"{error}\nThe runs are complete. To push the best again:\n  {again}"
            ) from error

    def _choose_folder(self, command: Command) -> tuple[int, float | None]:
        """Return the number of the folder for a run of the sweep, and the objective if it is done there.

        A run that is in the sweep's folder keeps its number, whatever the order of the values is now; a new
        one gets the first free number from its own on.
        """
        folder, own = self._folder, command.member
        assert folder is not None
        assert own is not None
        composed = command.composed
        runs = [file.parent for file in folder.glob("[0-9]*/config.yaml")]
        taken = {int(run.name): run for run in runs if run.name.isdigit()}
        if composed.overwrite or not taken:
            self._used.add(own)
            return own, None
        compared = importlib.import_module("finetune.assembly.compared")
        try:
            _, launch = command.prepare([])
        except UserError:  # running it will report it
            self._used.add(own)
            return own, None
        for number, member in sorted(taken.items()):
            if number not in self._used and compared.has_same_settings(member, launch.recipe):
                self._used.add(number)
                return number, compared.read_objective(member)
        free = own
        if not composed.resume or own in self._used:
            while free in taken or free in self._used:
                free += 1
        self._used.add(free)
        return free, None

    def report(self) -> None:
        """Show all runs of a sweep of trainings as a table, and raise an error if one failed.

        Raises:
            UserError: names the failed runs.
        """
        if self.line.job == "train" and self._folder is not None and os.environ.get("RANK", "0") == "0":
            best = importlib.import_module("finetune.jobs.compare").show_sweep(self._folder, self.failed)
            self._push_best(best)
        if self.failed:
            numbers = ", ".join(self.failed)
            raise UserError(f"{len(self.failed)} of {self._count()} runs of the sweep failed: {numbers}.")

    def _say(self, text: str) -> None:
        """Print a line next to the job's own, from one process only."""
        stream = sys.stdout if JOBS[self.line.job].needs_data else sys.stderr
        if os.environ.get("RANK", "0") == "0":
            print(text, file=stream, flush=True)

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
