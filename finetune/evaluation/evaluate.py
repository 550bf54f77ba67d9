"""A whole split: generate, score, and gather from all processes, no example twice and none lost."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from transformers import PreTrainedTokenizerBase

from finetune import signals
from finetune.data.batches.collator import Collator
from finetune.data.examples.dataset import ExampleDataset
from finetune.errors import UserError
from finetune.example import Example
from finetune.generation.generate import Generation, generate_answers
from finetune.metrics.metric import Metric, compute_by_group
from finetune.processes import is_main_process, raise_together, share
from finetune.progress import track
from finetune.tasks.task import Answer, Task

log = logging.getLogger(__name__)

LossFunction = Callable[[nn.Module, dict[str, Tensor]], Tensor]
"""(model, batch with labels) -> (B,) losses."""


@dataclass(frozen=True)
class Evaluation:
    """The result over a split."""

    scores: dict[str, Any]
    """The metric's fields, `n`, `confidence`, `unfinished` (answers that were cut before EOS, in percent,
    here and in `by_group`), and `loss` where asked for."""
    rows: list[dict[str, Any]]
    """Prediction rows, in the order of the split."""


class _EvaluationCollator:
    """Makes one batch to generate from and, with the same pixels, one to compute the loss on."""

    def __init__(self, collator: Collator, with_loss: bool) -> None:
        self.collator = collator
        self.with_loss = with_loss

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        for example in examples:
            if not example.suffixes:
                raise UserError(
                    f"Example `{example.id}` has no reference to score against; evaluation needs one."
                )
        pixels = self.collator.build_pixels(examples)
        batch: dict[str, Any] = {"prompt": {**self.collator.build_prompt(examples), **pixels}}
        if self.with_loss:
            batch["labelled"] = {**self.collator.build_text(examples), **pixels}
        batch["rows"] = [
            {
                "id": example.id,
                **({"group": example.group} if example.group is not None else {}),
                "prefix": example.prefix,
                **example.target,
            }
            for example in examples
        ]
        return batch


@torch.no_grad()
def evaluate(
    model: nn.Module,
    dataset: ExampleDataset,
    collator: Collator,
    tokenizer: PreTrainedTokenizerBase,
    metric: Metric,
    generation: Generation,
    *,
    compute_loss: LossFunction | None = None,
    autocast: AbstractContextManager[Any] | None = None,
) -> Evaluation:
    """Score a model over a split; every process takes its share and all return the whole result.

    Args:
        model: not wrapped for distribution; left in the mode it came in.
        dataset: the split.
        collator: without a budget: evaluation neither cuts nor drops.
        tokenizer: the checkpoint's.
        metric: scores the prediction rows.
        generation: how.
        compute_loss: losses over the first suffix; null leaves them out.
        autocast: context of the forward passes.

    Raises:
        UserError: an example has no reference, or not those the metric needs.
    """
    state = PartialState()
    own = range(state.process_index, len(dataset), state.num_processes)
    batches = _load_batches(
        dataset, own, _EvaluationCollator(collator, compute_loss is not None), generation
    )
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    rows: list[dict[str, Any]] = []
    losses: list[float] = []
    mistake: str | None = None
    try:
        with autocast or nullcontext():
            for batch in batches:
                prompt = {name: value.to(device) for name, value in batch["prompt"].items()}
                answers = generate_answers(model, prompt, tokenizer, generation)
                pairs = zip(batch["rows"], answers, strict=True)
                rows += [_finish_row(row, answer, dataset.task, metric) for row, answer in pairs]
                if compute_loss is not None:
                    labelled = {name: value.to(device) for name, value in batch["labelled"].items()}
                    losses += compute_loss(model, labelled).tolist()
    except UserError as error:
        mistake = str(error)
    finally:
        model.train(training)
    raise_together(mistake)
    rows = _gather(list(zip(own, rows, strict=True)))
    scores = compute_by_group(metric, rows)
    scores["confidence"] = sum(row["confidence"] for row in rows) / len(rows)
    _count_unfinished(scores, rows)
    if compute_loss is not None:
        losses = _gather(list(zip(own, losses, strict=True)))
        scores["loss"] = sum(losses) / len(losses)
    return Evaluation(scores, rows)


def _load_batches(
    dataset: ExampleDataset, own: range, collate: _EvaluationCollator, generation: Generation
) -> Iterable[dict[str, Any]]:
    """Return the batches of this process, under a bar where standard error is a terminal."""
    loader = DataLoader(
        Subset(dataset, own),
        batch_size=generation.batch_size,
        num_workers=generation.workers,
        collate_fn=collate,
        worker_init_fn=signals.ignore_in_worker,
    )
    with signals.held():
        batches = iter(loader)
    silent = not is_main_process()
    return track(batches, "evaluate", "batch", total=len(loader), silent=silent, leave=False)


def _finish_row(row: dict[str, Any], answer: Answer, task: Task, metric: Metric) -> dict[str, Any]:
    row |= {"prediction": answer.text, **task.read_answer(answer, row)}
    row["confidence"] = round(answer.confidence, 4)
    if answer.unfinished:
        row["unfinished"] = True
    score = metric.score(row)
    if score is not None:
        row["score"] = score
    return row


def _count_unfinished(scores: dict[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Add the share of answers that were cut before EOS, in percent, of all rows and of each group."""
    cut = [str(row.get("group")) for row in rows if row.get("unfinished")]
    scores["unfinished"] = 100.0 * len(cut) / len(rows)
    for group, fields in scores.get("by_group", {}).items():
        fields["unfinished"] = 100.0 * cut.count(group) / fields["n"]


def _gather(own: list[tuple[int, Any]]) -> list[Any]:
    """Put the processes' shares back into the order of the split."""
    shared = [pair for part in share(own) for pair in part]
    return [value for _, value in sorted(shared, key=lambda pair: pair[0])]
