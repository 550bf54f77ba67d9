"""Scoring a model over the validation split, during and after training."""

from collections.abc import Callable

from accelerate import PartialState
from torch import nn

from finetune.assembly.model import half_precision
from finetune.data.batches.collator import Collator
from finetune.data.batches.workers import choose_workers
from finetune.data.examples.dataset import ExampleDataset
from finetune.evaluation.evaluate import Evaluation, evaluate
from finetune.generation.options import EvaluationConfig
from finetune.metrics.metric import Metric
from finetune.training.options import TrainerConfig

EvaluateSplit = Callable[[nn.Module], Evaluation]
"""Scores a model over the validation split."""


def build_evaluator(
    options: EvaluationConfig,
    trainer: TrainerConfig,
    dataset: ExampleDataset,
    collator: Collator,
    metric: Metric,
) -> EvaluateSplit:
    """Return a function that evaluates a model on this split.

    Args:
        options: see `evaluate`.
        trainer: its precision and workers are read.
        dataset: the validation split.
        collator: a collator without `max_text_length`.
        metric: scores the prediction rows.
    """
    images = len(dataset) // PartialState().num_processes

    def run(model: nn.Module) -> Evaluation:
        # Before each: the images may have been stored since the last.
        stored = dataset.estimate_stored() == 1
        workers = choose_workers(trainer.dataloader_num_workers, images, stored=stored).processes
        autocast = half_precision(trainer)
        return evaluate(model, dataset, collator, metric, options, workers=workers, autocast=autocast)

    return run


class LastEvaluations:
    """Evaluates the model once at each step: the best step was already evaluated during training.

    Args:
        evaluate: scores a model over the validation split.
    """

    def __init__(self, evaluate: EvaluateSplit) -> None:
        self.evaluate = evaluate
        self.best_step: int | None = None
        self._known: dict[int, Evaluation] = {}

    def __call__(self, model: nn.Module, step: int) -> Evaluation:
        """Return the evaluation of the model at a step; computed on the first call for this step."""
        if step not in self._known:
            self._known = {seen: result for seen, result in self._known.items() if seen == self.best_step}
            self._known[step] = self.evaluate(model)
        return self._known[step]
