"""Evaluation of a split: generate, score, and gather from all processes, each example exactly once."""

import logging
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, cast

import torch
from accelerate import PartialState
from torch import nn
from torch.utils.data import DataLoader, Subset

from finetune import signals
from finetune.data.batches.collator import Collator
from finetune.data.examples.dataset import ExampleDataset
from finetune.errors import UserError
from finetune.example import Batch, Example, PredictionRow, Prompts
from finetune.generation.generate import answer_batches
from finetune.generation.options import EvaluationConfig
from finetune.metrics.metric import Metric, compute_by_group
from finetune.model.forward import compute_losses, to_device
from finetune.processes import failing_together, is_main_process, share
from finetune.progress import track
from finetune.tasks.task import Answer, Task

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Evaluation:
    """The result over a split."""

    scores: dict[str, Any]
    """The metric's fields, `n`, `confidence`, `unfinished` (answers cut before EOS, in percent, also in
    `by_group`), and `loss` if it is asked for."""
    rows: list[PredictionRow]
    """Prediction rows, in the order of the split."""


class _Labelled(NamedTuple):
    """The rest of a batch, next to its prompts."""

    rows: list[PredictionRow]
    """The beginning of each prediction row."""
    batch: Batch | None
    """The same images with their first suffix, for the loss."""


class _EvaluationCollator:
    """Makes one batch to generate from and, with the same pixels, one for the loss."""

    def __init__(self, collator: Collator, with_loss: bool) -> None:
        self.collator = collator
        self.with_loss = with_loss

    def __call__(self, examples: Sequence[Example]) -> tuple[Prompts, _Labelled]:
        for example in examples:
            if not example.suffixes:
                raise UserError(
                    f"Example `{example.id}` has no reference to score against; evaluation needs one."
                )
        pixels = self.collator.build_pixels(examples)
        rows = [begin_row(example) for example in examples]
        batch = self.collator(examples, pixels) if self.with_loss else None
        return self.collator.build_prompts(examples, pixels), _Labelled(rows, batch)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    dataset: ExampleDataset,
    collator: Collator,
    metric: Metric,
    options: EvaluationConfig,
    *,
    workers: int = 0,
    autocast: AbstractContextManager[object] | None = None,
) -> Evaluation:
    """Score a model over a split; every process takes its share and all return the whole result.

    Args:
        model: not wrapped for distribution; its training mode is restored.
        dataset: the split.
        collator: without `max_text_length`: evaluation neither cuts nor drops.
        metric: scores the prediction rows.
        options: their `batch_size`, `loss`, and what generation reads.
        workers: processes that decode images.
        autocast: context of the forward passes.

    Raises:
        UserError: an example has no reference, or not those the metric needs.
    """
    state = PartialState()
    share_of_rows = range(state.process_index, len(dataset), state.num_processes)
    collate = _EvaluationCollator(collator, options.loss)
    batches = _load_batches(dataset, share_of_rows, collate, options.batch_size, workers)
    autocast = autocast or nullcontext()
    device = next(model.parameters()).device
    rows: list[PredictionRow] = []
    losses: list[float] = []
    with failing_together(), ExitStack() as stack:
        stack.callback(model.train, model.training)
        model.eval()
        for labelled, answers in answer_batches(model, batches, collator.tokenizer, options, autocast):
            pairs = zip(labelled.rows, answers, strict=True)
            rows += [finish_row(row, answer, dataset.task, metric) for row, answer in pairs]
            if labelled.batch is not None:
                with autocast:
                    losses += compute_losses(model, to_device(labelled.batch, device)).tolist()
    rows = _gather(list(zip(share_of_rows, rows, strict=True)))
    scores = compute_by_group(metric, rows)
    scores["confidence"] = sum(row["confidence"] for row in rows) / len(rows)
    _count_unfinished(scores, rows)
    if options.loss:
        losses = _gather(list(zip(share_of_rows, losses, strict=True)))
        scores["loss"] = sum(losses) / len(losses)
    return Evaluation(scores, rows)


def _load_batches(
    dataset: ExampleDataset, indices: range, collate: _EvaluationCollator, size: int, workers: int
) -> Iterable[tuple[Prompts, _Labelled]]:
    """Return the batches of this process, with a bar if standard error is a terminal."""
    loader = DataLoader(
        Subset(dataset, indices),
        batch_size=size,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        collate_fn=collate,
        worker_init_fn=signals.ignore_in_worker,
    )
    with signals.held():
        batches = iter(loader)
    silent = not is_main_process()
    return track(batches, "evaluate", "batch", total=len(loader), silent=silent, leave=False)


def begin_row(example: Example) -> PredictionRow:
    """Return a prediction row without its prediction."""
    group = {} if example.group is None else {"group": example.group}
    image = {} if example.image is None else {"image": example.image}
    row = {"id": example.id, **group, **image, "prefix": example.prefix, **example.target}
    return cast(PredictionRow, row)


def finish_row(row: PredictionRow, answer: Answer, task: Task, metric: Metric) -> PredictionRow:
    """Add an answer to a prediction row, as the task reads it, with its score."""
    row["prediction"] = answer.text
    row.update(cast(PredictionRow, task.read_answer(answer, row)))
    row["confidence"] = round(answer.confidence, 4)
    if answer.unfinished:
        row["unfinished"] = True
    score = metric.score(row)
    if score is not None:
        row["score"] = score
    return row


def _count_unfinished(scores: dict[str, Any], rows: Sequence[PredictionRow]) -> None:
    """Add the percentage of answers that were cut before EOS, of all rows and of each group."""
    cut = [str(row.get("group")) for row in rows if row.get("unfinished")]
    scores["unfinished"] = 100.0 * len(cut) / len(rows)
    for group, fields in scores.get("by_group", {}).items():
        fields["unfinished"] = 100.0 * cut.count(group) / fields["n"]


def _gather(pairs: list[tuple[int, T]]) -> list[T]:
    """Put the processes' shares back into the order of the split."""
    shared = [pair for part in share(pairs) for pair in part]
    return [value for _, value in sorted(shared, key=lambda pair: pair[0])]
