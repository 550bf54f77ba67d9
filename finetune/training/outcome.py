"""The result of a training: its step and the reason for it, the measurements, and the saved weights."""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PaliGemmaProcessor

from finetune.processes import on_main
from finetune.run.checkpoints import Checkpoint, digest_weights, read_state
from finetune.run.files import write_folder
from finetune.training.callbacks import StopWithoutImprovement, peak_memory_gib
from finetune.training.trainer import PaliGemmaTrainer

log = logging.getLogger(__name__)


def has_stopped_early(trainer: PaliGemmaTrainer, start: Checkpoint) -> bool:
    """Return whether the run stopped early for lack of improvement."""
    history: Any = read_state(start)["log_history"]
    callbacks = trainer.callback_handler.callbacks
    return any(
        isinstance(callback, StopWithoutImprovement) and callback.is_exhausted(history)
        for callback in callbacks
    )


def describe_result(trainer: PaliGemmaTrainer) -> dict[str, Any]:
    """Return which step's weights are the result, and why."""
    state, name = trainer.state, trainer.args.metric_for_best_model
    if name is None or not state.best_global_step:
        return {"step": state.global_step, "why": f"step {state.global_step}, the last one"}
    field, value = name.removeprefix("eval_"), state.best_metric
    values = [entry[name] for entry in state.log_history if name in entry]
    which = "highest" if trainer.args.greater_is_better else "lowest"
    why = f"step {state.best_global_step} of {state.global_step}, with the {which} {field} ({value:.4g})"
    if (ties := values.count(value)) > 1:
        with_loss = any("eval_loss" in entry for entry in state.log_history)
        tie = "has the lowest loss of them" if with_loss else "is the latest of them"
        why += f"; {ties} of {len(values)} evaluations have it, and this one {tie}"
    return {"step": state.best_global_step, "metric": field, "value": value, "why": why}


def save_result(trainer: PaliGemmaTrainer, processor: PaliGemmaProcessor, target: Path) -> dict[str, str]:
    """Save the adapter or the model, with the processor, completely or not at all; collective.

    Args:
        trainer: has the weights; all processes gather sharded ones.
        processor: processor of the checkpoint.
        target: the folder.

    Returns:
        The digests of the weights' files.
    """
    weights = trainer.accelerator.get_state_dict(trainer.model)
    card = target / "README.md"

    def write(path: Path) -> None:
        trainer.model.save_pretrained(path, state_dict=weights)
        processor.save_pretrained(path)
        # PEFT's is an empty template; the card follows when the scores are known.
        (path / card.name).unlink(missing_ok=True)
        if card.is_file():  # of a resumed run; the user may have edited it
            shutil.copyfile(card, path / card.name)

    def save() -> dict[str, str]:
        write_folder(target, write)
        return digest_weights(target)

    return on_main(save)


def measure_training(trainer: PaliGemmaTrainer, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the measurements of the training; collective.

    Args:
        trainer: the trainer, after training.
        before: measurements of an earlier start; kept if it had taken all steps.
    """
    steps = trainer.state.global_step
    measured = {
        "steps": steps,
        "loss": trainer.mean_loss,
        "examples_per_second": round(steps * trainer.global_batch / trainer.seconds, 3),
        "seconds": round(trainer.seconds, 1),
        "peak_memory_gib": round(peak_memory_gib(), 2),
    }
    if before.get("steps") == steps:
        log.info("the run had taken all its steps already; it was evaluated again")
        return dict(before)
    return measured


def list_evaluations(trainer: PaliGemmaTrainer) -> list[dict[str, float]]:
    """Return the evaluations during training, with the names of the metric's fields."""
    return [
        {name.removeprefix("eval_"): value for name, value in entry.items()}
        for entry in trainer.state.log_history
        if any(name.startswith("eval_") for name in entry)
    ]
