"""What a training leaves: the weights, why they are these, and what was measured."""

import logging
import shutil
from pathlib import Path
from typing import Any

from transformers import PaliGemmaProcessor, PreTrainedModel

from finetune.config.schema import RunConfig
from finetune.evaluation.evaluate import Evaluation
from finetune.model.options import PeftMethod
from finetune.run.checkpoints import digest_weights
from finetune.run.files import read_json, write_folder, write_json
from finetune.run.folder import RunFolder
from finetune.training.trainer import PaliGemmaTrainer

log = logging.getLogger(__name__)


def save_result(
    model: PreTrainedModel, processor: PaliGemmaProcessor, config: RunConfig, folder: RunFolder
) -> dict[str, str]:
    """Save the adapter or the model, with the processor, whole or not at all.

    Returns:
        The digests of its weights.
    """
    target = folder.model if config.peft.method == PeftMethod.none else folder.adapter
    card = target / "README.md"

    def write(path: Path) -> None:
        model.save_pretrained(path)
        processor.save_pretrained(path)
        if card.is_file():  # of a run that goes on; its user may have written in it
            shutil.copyfile(card, path / card.name)

    write_folder(target, write)
    return digest_weights(target)


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


def measure_training(trainer: PaliGemmaTrainer) -> dict[str, Any]:
    """Return what the training measured; collective."""
    steps = trainer.state.global_step
    return {
        "steps": steps,
        "loss": trainer.mean_loss,
        "examples_per_second": round(steps * trainer.global_batch / trainer.seconds, 3),
        "seconds": round(trainer.seconds, 1),
    }


def write_metrics(
    file: Path,
    trainer: PaliGemmaTrainer,
    measured: dict[str, Any],
    result: dict[str, Any],
    evaluation: Evaluation,
) -> None:
    """Write `metrics.json`: the final scores, the training, and each evaluation on the way.

    What `evaluate` added to it later is kept, and so is what a training measured that has taken all its
    steps before.

    Args:
        file: gets them.
        trainer: after training.
        measured: of `measure_training`.
        result: of `describe_result`.
        evaluation: of the result.
    """
    before = read_json(file) if file.is_file() else {}
    if before.get("train", {}).get("steps") == measured["steps"]:
        log.info("the run had taken all its steps already; it was evaluated again")
        measured = before["train"]
    metrics = {
        "final": evaluation.scores,
        "result": result,
        "train": measured,
        "evaluations": [
            {name.removeprefix("eval_"): value for name, value in entry.items()}
            for entry in trainer.state.log_history
            if any(name.startswith("eval_") for name in entry)
        ],
    }
    write_json(file, metrics | {name: before[name] for name in ("evaluate",) if name in before})


def format_scores(scores: dict[str, Any]) -> str:
    """Lay scores out as one line; groups stand in metrics.json."""
    values = {name: value for name, value in scores.items() if not isinstance(value, dict)}
    return "  ".join(f"{name} {_format_number(value)}" for name, value in values.items())


def _format_number(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return "0" if abs(value) < 5e-5 else f"{value:.4g}"
