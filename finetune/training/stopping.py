"""A training that may be stopped: by a signal, by unreadable data, by a loss that is not finite."""

import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from signal import Signals

import torch

from finetune import signals
from finetune.errors import UserError
from finetune.model.out_of_memory import is_out_of_memory
from finetune.processes import count_processes
from finetune.run.checkpoints import Checkpoint, list_checkpoints
from finetune.run.resume import resume_command
from finetune.training.callbacks import Progress, StopOnSignal, WholeSteps
from finetune.training.outcome import has_stopped_early
from finetune.training.trainer import PaliGemmaTrainer

log = logging.getLogger(__name__)


def train_or_stop(
    trainer: PaliGemmaTrainer,
    start: Checkpoint | None,
    checkpoints: Path,
    command: list[str],
    advise: Callable[[], str] = str,
) -> Signals | None:
    """Train, from a checkpoint where the run is resumed.

    Args:
        trainer: takes the steps.
        start: where a resumed run continues.
        checkpoints: their folder.
        command: the run's, for the advice how to continue.
        advise: called after a step that did not fit into the memory; says what would.

    Returns:
        The signal that stopped the training, after a checkpoint was saved; None if all steps were taken.

    Raises:
        UserError: an unreadable example or a loss that is not finite, with a checkpoint; or no memory left.
        KeyboardInterrupt: from Ctrl-C in a program without the command line; a checkpoint was saved.
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
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise explain_memory(error, trainer, advise, resume) from None
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


def free_memory(trainer: PaliGemmaTrainer, error: BaseException) -> None:
    """Drop what a failed step has allocated: what is said about it needs memory too."""
    traceback.clear_frames(error.__traceback__)
    trainer.model.zero_grad(set_to_none=True)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def explain_memory(
    error: BaseException, trainer: PaliGemmaTrainer, advise: Callable[[], str], resume: str
) -> UserError:
    """Return a message about what did not fit, what would, and how to continue."""
    free_memory(trainer, error)
    reason = (str(error) or "MemoryError").splitlines()[0].partition(". GPU ")[0]
    # No checkpoint is saved now: the weights may be those of half a step.
    kept = [point.step for point in list_checkpoints(Path(trainer.args.output_dir)) if point.is_sealed]
    if kept:
        then = (
            f"The checkpoint of step {kept[-1]} is kept. With these words added, continue with:\n  {resume}"
        )
    else:
        then = "There is no checkpoint yet: start again, with these words added and overwrite=true."
    try:
        advice = advise()
    except (MemoryError, RuntimeError):
        words = "trainer.per_device_train_batch_size=1 trainer.activation_checkpointing=true"
        advice = f"Less is needed with:\n  {words}"
    step = trainer.state.global_step + 1
    return UserError(f"Out of memory in step {step}: {reason}.\n{advice}\n{then}")


def log_resume_command(reason: str, step: int, command: str) -> None:
    """Log why the training stopped, and how to continue it."""
    log.warning(
        "%s: stopped after step %d; its checkpoint is saved. Continue with:\n  %s", reason, step, command
    )
