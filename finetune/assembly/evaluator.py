"""What scores a model over the validation split."""

from collections.abc import Callable

from torch import Tensor, nn
from transformers import PaliGemmaProcessor

from finetune.assembly.model import half_precision
from finetune.config.schema import RunConfig
from finetune.data.batches.collator import Collator
from finetune.data.examples.dataset import ExampleDataset
from finetune.evaluation.evaluate import Evaluation, evaluate
from finetune.generation.generate import UNKNOWN_LENGTH, Generation
from finetune.metrics.metric import Metric
from finetune.model.loss import compute_example_losses, supervised_positions

Evaluator = Callable[[nn.Module], Evaluation]
"""Scores a model over the validation split."""


def build_evaluator(
    config: RunConfig,
    dataset: ExampleDataset,
    collator: Collator,
    processor: PaliGemmaProcessor,
    metric: Metric,
) -> Evaluator:
    """Bind split, metric, generation, precision and loss; the model comes when there is one."""
    options = config.evaluation
    generation = Generation(
        batch_size=options.batch_size,
        max_new_tokens=options.max_new_tokens or UNKNOWN_LENGTH,
        num_beams=options.num_beams,
        workers=config.trainer.dataloader_num_workers,
    )

    def losses(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        labels = batch.pop("labels")
        keep = supervised_positions(labels)
        logits = model(**batch, logits_to_keep=keep, use_cache=False).logits
        return compute_example_losses(logits, labels)

    def run(model: nn.Module) -> Evaluation:
        return evaluate(
            model,
            dataset,
            collator,
            processor.tokenizer,
            metric,
            generation,
            compute_loss=losses if options.loss else None,
            autocast=half_precision(config),
        )

    return run


class LastEvaluations:
    """Evaluates the model at a step, once: the result that is kept was often evaluated on the way.

    Args:
        evaluate: scores a model over the validation split.
    """

    def __init__(self, evaluate: Evaluator) -> None:
        self.evaluate = evaluate
        self.best_step: int | None = None
        self._known: dict[int, Evaluation] = {}

    def __call__(self, model: nn.Module, step: int) -> Evaluation:
        """Return the evaluation of the model as it is at a step."""
        if step not in self._known:
            self._known = {old: result for old, result in self._known.items() if old == self.best_step}
            self._known[step] = self.evaluate(model)
        return self._known[step]
