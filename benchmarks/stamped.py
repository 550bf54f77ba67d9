"""A training that prints when each phase of its start is over, and ends after its first step.

python benchmarks/stamped.py BEGAN WORD ...: the second at which the command was given, and its words.

Started by `first_step.py`. A line for each phase: its name, seconds since BEGAN, and processor seconds,
those of processes that have ended among them.
"""

import os
import resource
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from finetune import cli


def stamp(phase: str) -> None:
    """Print that a phase is over."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    processor = sum(usage.ru_utime + usage.ru_stime for usage in used)
    print(f"@ {phase} {time.time() - float(sys.argv[1]):.3f} {processor:.3f}", flush=True)


def stamped(function: Callable[..., Any], phase: str) -> Callable[..., Any]:
    """Return a function that stamps a phase when it is done."""

    def call(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        stamp(phase)
        return result

    return call


def run_job(command: Any, words: list[str]) -> None:
    """Run the job as `cli.run_job` does, with stamps."""
    stamp("config")
    options, launch = command.prepare(words)
    import_module("finetune.assembly.custom").check_targets(options)
    train = import_module("finetune.jobs.train")
    cli.show_on_terminal("stdout")
    stamp("import")
    for name, phase in (("build_data", "data"), ("build_learner", "weights"), ("log_beginning", "trainer")):
        setattr(train, name, stamped(getattr(train, name), phase))

    def end(*args: Any, **kwargs: Any) -> None:
        stamp("step")
        os._exit(0)

    # Called after the optimizer's step; it would log, evaluate and save.
    train.PaliGemmaTrainer._maybe_log_save_evaluate = end
    train.run(options, launch)


if __name__ == "__main__":
    cli.run_job = run_job  # type: ignore[assignment]
    sys.exit(cli.main(sys.argv[2:]))
