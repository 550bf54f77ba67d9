"""What scores a model over the validation split."""

from collections.abc import Callable

from torch import nn

from finetune.assembly.model import half_precision
from finetune.config.schema import RunConfig
from finetune.data.batches.collator import Collator
from finetune.data.examples.dataset import ExampleDataset
from finetune.evaluation.evaluate import Evaluation, evaluate
from finetune.metrics.metric import Metric

EvaluateSplit = Callable[[nn.Module], Evaluation]
"""Scores a model over the validation split."""


def build_evaluator(
    config: RunConfig, dataset: ExampleDataset, collator: Collator, metric: Metric
) -> EvaluateSplit:
    """Return a function that evaluates a model on this split.

    Args:
        config: the run's options of the evaluation; precision and number of workers are the trainer's.
        dataset: the split.
        collator: without a budget.
        metric: scores the prediction rows.
    """

    def run(model: nn.Module) -> Evaluation:
        return evaluate(
            model,
            dataset,
            collator,
            metric,
            config.evaluation,
            workers=config.trainer.dataloader_num_workers,
            autocast=half_precision(config.trainer),
        )

    return run


class LastEvaluations:
    """Evaluates the model at a step, once: the result that is kept was often evaluated on the way.

    Args:
        evaluate: scores a model over the validation split.
    """

    def __init__(self, evaluate: EvaluateSplit) -> None:
        self.evaluate = evaluate
        self.best_step: int | None = None
        self._known: dict[int, Evaluation] = {}

    def __call__(self, model: nn.Module, step: int) -> Evaluation:
        """Return the evaluation of the model as it is at a step."""
        if step not in self._known:
            self._known = {old: result for old, result in self._known.items() if old == self.best_step}
            self._known[step] = self.evaluate(model)
        return self._known[step]
