"""Evaluation of a split: generate, score, and gather from all processes, each example exactly once."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from accelerate import PartialState
from datasets import Value
from torch import nn
from torch.utils.data import DataLoader

from finetune import signals
from finetune.data.batches.collator import Collator
from finetune.data.examples.dataset import PICTURES, ExampleDataset
from finetune.errors import UserError
from finetune.example import Example, PredictionRow, Prompts
from finetune.generation.generate import answer_batches
from finetune.generation.options import EvaluationConfig
from finetune.metrics.metric import Metric, compute_by_group
from finetune.processes import failing_together, is_main_process, share
from finetune.progress import track
from finetune.tasks.task import Answer, Task

log = logging.getLogger(__name__)

T = TypeVar("T")

_LOADED = 64
"""Most examples that are decoded and sent from a worker at once; how many are answered at once is another
matter."""

_IMAGE_TOKENS = 16384
"""Most tokens of their images, unless they are very large: a worker's batches have to fit into memory."""


@dataclass(frozen=True)
class Evaluation:
    """The result over a split."""

    scores: dict[str, Any]
    """The metric's fields, `n`, `confidence`, `unfinished` (answers cut before EOS, in percent, also in
    `by_group`), and `loss` if it is asked for."""
    rows: list[PredictionRow]
    """Prediction rows, in the order of the split."""


class _EvaluationCollator:
    """Makes prompts, with their first suffixes if the loss is asked for, and begins the prediction rows."""

    def __init__(self, collator: Collator, with_loss: bool) -> None:
        self.collator = collator
        self.with_loss = with_loss

    def __call__(self, examples: Sequence[Example]) -> tuple[Prompts, list[PredictionRow]]:
        for example in examples:
            if not example.suffixes:
                raise UserError(
                    f"Example `{example.id}` has no reference to score against; evaluation needs one."
                )
        prompts = self.collator.build_prompts(examples)
        if self.with_loss:
            prompts["suffixes"] = [self.collator.encode(example).suffixes[0] for example in examples]
        return prompts, [begin_row(example) for example in examples]


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
        options: their `loss`, and what generation reads.
        workers: processes that decode images.
        autocast: context of the forward passes.

    Raises:
        UserError: an example has no reference, or not those the metric needs.
    """
    state = PartialState()
    size = min(_LOADED, max(_LOADED // 8, _IMAGE_TOKENS // collator.tokens_per_image))
    groups = group_by_image(dataset)[state.process_index :: state.num_processes]
    order = [index for group in groups for index in group]
    indices = list(_fill_batches(groups, size))
    batches = _load_batches(dataset, indices, _EvaluationCollator(collator, options.loss), workers)
    autocast = autocast or nullcontext()
    rows: list[PredictionRow] = []
    losses: list[float] = []
    with failing_together(), ExitStack() as stack:
        stack.callback(model.train, model.training)
        model.eval()
        silent = not is_main_process()
        nothing: tuple[object, ...] = ()
        bar = track(nothing, "evaluate", "example", total=len(order), silent=silent, leave=False)
        stack.callback(bar.close)
        for begun, answers in answer_batches(model, batches, collator.tokenizer, options, autocast):
            for row, answer in zip(begun, answers, strict=True):
                rows.append(finish_row(row, answer, dataset.task, metric))
                if answer.loss is not None:
                    losses.append(answer.loss)
            bar.update(len(begun))
    rows = _gather(list(zip(order, rows, strict=True)))
    scores = compute_by_group(metric, rows)
    scores["confidence"] = sum(row["confidence"] for row in rows) / len(rows)
    _count_unfinished(scores, rows)
    if options.loss:
        losses = _gather(list(zip(order, losses, strict=True)))
        scores["loss"] = sum(losses) / len(losses)
    return Evaluation(scores, rows)


def group_by_image(dataset: ExampleDataset) -> list[list[int]]:
    """Return the indices of all rows, those of rows that name the same images together.

    Such rows share what the vision tower makes of the image, and rows that ask the same their answer too.
    Images inside the rows are not read for it: of these, rows of one batch share what they can.
    """
    name = next(name for name in PICTURES if name in dataset.rows.column_names)
    groups: dict[object, list[int]] = {}
    is_path = dataset.rows.features[name] == Value("string")
    sources = dataset.rows.select_columns(name)[name] if is_path else range(len(dataset))
    for index, source in enumerate(sources):
        groups.setdefault(source, []).append(index)
    return list(groups.values())


def _load_batches(
    dataset: ExampleDataset, indices: list[list[int]], collate: _EvaluationCollator, workers: int
) -> Iterator[tuple[Prompts, list[PredictionRow]]]:
    """Return the batches of this process."""
    loader = DataLoader(
        dataset,
        batch_sampler=indices,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        collate_fn=collate,
        worker_init_fn=signals.ignore_in_worker,
    )
    with signals.held():
        batches = iter(loader)
    # A store is written by this thread while the model answers.
    return _load_ahead(batches) if workers == 0 and dataset.store is None else batches


def _load_ahead(batches: Iterator[T]) -> Iterator[T]:
    """Load the next batch in a thread while this one is answered; neither holds the interpreter long."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, batches, None)
            yield batch


def _fill_batches(groups: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Yield batches of whole groups, as far as these are no larger than a batch."""
    batch: list[int] = []
    for group in groups:
        if batch and len(batch) + len(group) > size:
            yield batch
            batch = []
        for index in group:
            batch.append(index)
            if len(batch) == size:
                yield batch
                batch = []
    if batch:
        yield batch


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
