"""A training that may be stopped: by a signal, by unreadable data, by a loss that is not finite."""

import logging
from pathlib import Path
from signal import Signals

from finetune import signals
from finetune.errors import UserError
from finetune.processes import count_processes
from finetune.run.checkpoints import Checkpoint
from finetune.run.resume import resume_command
from finetune.training.callbacks import Progress, StopOnSignal, WholeSteps
from finetune.training.outcome import has_stopped_early
from finetune.training.trainer import PaliGemmaTrainer

log = logging.getLogger(__name__)


def train_or_stop(
    trainer: PaliGemmaTrainer, start: Checkpoint | None, checkpoints: Path, command: list[str]
) -> Signals | None:
    """Train, from a checkpoint where the run is resumed.

    Args:
        trainer: takes the steps.
        start: where a resumed run continues.
        checkpoints: their folder.
        command: the run's, for the advice how to continue.

    Returns:
        The signal that stopped the training, after a checkpoint was saved; None if all steps were taken.

    Raises:
        UserError: an example cannot be read, or a loss is not finite. A checkpoint was saved.
        KeyboardInterrupt: from Ctrl-C in a program that does not use the command line. A checkpoint was
            saved.
    """
    progress, stop, steps = Progress(trainer.global_batch), StopOnSignal(), WholeSteps()
    for callback in (progress, stop, steps):
        trainer.add_callback(callback)
    trainer.args.output_dir = str(checkpoints)
    if start is not None and has_stopped_early(trainer, start):
        trainer.args.max_steps = start.step
    resume = resume_command(command)
    signals.advise(f"The steps since the last checkpoint are lost. Continue with:\n  {resume}")
    try:
        with stop.listening(), progress.closing():
            trainer.train(resume_from_checkpoint=str(start.folder) if start else None)
    except UserError as error:
        if trainer.state.global_step == 0 or trainer.is_broken:
            raise
        trainer.save_now()
        raise UserError(
            f"{error}\nStopped after step {trainer.state.global_step}; its checkpoint is saved. Once that "
            f"is mended, continue with:\n  {resume}"
        ) from error
    except signals.Interrupted:
        raise  # the second signal: the user does not want to wait for a checkpoint
    except KeyboardInterrupt:
        # A checkpoint needs all processes, and another one may be at another step.
        if trainer.state.global_step > 0 and steps.is_whole and count_processes() == 1:
            steps.restore_random_state()
            trainer.save_now()
            log_resume_command("KeyboardInterrupt", trainer.state.global_step, resume)
        raise
    if stop.received is not None:
        log_resume_command(stop.received.name, trainer.state.global_step, resume)
        return stop.received
    signals.advise(f"All steps are saved. Continue with:\n  {resume}")
    return None


def log_resume_command(reason: str, step: int, command: str) -> None:
    """Log why the training stopped, and how to continue it."""
    log.warning(
        "%s: stopped after step %d; its checkpoint is saved. Continue with:\n  %s", reason, step, command
    )
