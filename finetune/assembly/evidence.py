"""What stands next to a score: its interval, the score of a model without images, and the report."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from torch import nn

from finetune.assembly.data import Data
from finetune.assembly.model import half_precision
from finetune.assembly.report import write_report
from finetune.assembly.report_sets import choose_examples
from finetune.config.jobs import Evaluate, Train
from finetune.data.batches.collator import Collator
from finetune.data.batches.workers import choose_workers
from finetune.data.examples.dataset import ExampleDataset
from finetune.errors import UserError
from finetune.evaluation.evaluate import Evaluation, evaluate
from finetune.example import PredictionRow
from finetune.generation.options import BlankImages, EvaluationConfig
from finetune.metrics.bootstrap import Interval, bootstrap, bootstrap_difference
from finetune.metrics.fields import read_group
from finetune.metrics.metric import Metric
from finetune.metrics.pair import PairAccuracy
from finetune.metrics.several import metrics_of
from finetune.processes import on_main
from finetune.publish.card import update_card
from finetune.report.options import ReportConfig
from finetune.report.thumbnail import place_side_by_side
from finetune.run.folder import RunFolder
from finetune.run.results import add_evidence, write_thumbnails
from finetune.training.options import TrainerConfig

log = logging.getLogger(__name__)

_LARGE = 1_000_000_000
"""Parameters of a model that takes minutes for the answers on a CPU."""


@dataclass(frozen=True)
class BlankAnswers:
    """Answers to some examples of a split whose images were replaced with gray ones."""

    rows: list[PredictionRow]
    indices: Sequence[int]
    """The same examples in the split."""
    skipped: str = ""
    """Why there are none."""


def complete_report(
    options: Train | Evaluate,
    folder: RunFolder,
    model: nn.Module,
    data: Data,
    metric: Metric,
    evaluation: Evaluation,
    file: Path,
    more_follow: bool = False,
) -> None:
    """Add what stands next to the scores that were just written, and write the report; collective.

    Whatever goes wrong, the results are kept.

    Args:
        options: options of the run.
        folder: its folder, with the results.
        model: the model that was evaluated.
        data: its examples.
        metric: the metric that the rows were scored with.
        evaluation: scores and rows.
        file: the prediction rows.
        more_follow: leave the report to a later call, for another split.
    """
    examples, collator = data.validation, data.evaluation_collator
    try:
        blank = answer_blank(options.evaluation, options.trainer, model, examples, collator, metric)
    except UserError as error:  # in all processes alike
        blank = BlankAnswers([], [], str(error))

    def complete() -> None:
        evidence = describe_evidence(options.report, metric, evaluation, blank)
        add_evidence(folder, file, evidence, blank.rows if blank else [])
        chosen = choose_examples(metric, evaluation.rows, options.report.examples).values()
        write_thumbnails(
            folder.thumbnails / file.stem,
            evaluation.rows,
            chain.from_iterable(chosen),
            lambda index: place_side_by_side(examples[index].images),
        )
        if not more_follow:
            write_report(options, folder)
            log.info("report: %s", folder.report)

    on_main(lambda: _without_failing(folder, complete))
    if not more_follow:
        on_main(lambda: _without_failing(folder, lambda: update_card(folder), "model card"))


def _without_failing(folder: RunFolder, write: Callable[[], None], what: str = "report") -> None:
    """Write something whose failure is only reported."""
    try:
        write()
    except Exception as error:
        reason = (
            str(error) if isinstance(error, UserError | OSError) else f"{type(error).__name__}: {error}"
        )
        log.warning(
            "warning: the results are written, but their %s is not: %s Once that is mended: python -m "
            "finetune report run=%s",
            what,
            reason,
            folder.root,
        )
        log.debug("the %s failed", what, exc_info=True)


def answer_blank(
    options: EvaluationConfig,
    trainer: TrainerConfig,
    model: nn.Module,
    examples: ExampleDataset,
    collator: Collator,
    metric: Metric,
) -> BlankAnswers | None:
    """Answer some examples without their images; collective.

    Args:
        options: of the evaluation.
        trainer: its precision and workers are read.
        model: the model that was evaluated.
        examples: the split.
        collator: without `max_text_length`.
        metric: scores the rows.

    Returns:
        None if `evaluation.blank_images=never`.
    """
    if options.blank_images == BlankImages.never:
        return None
    parameters = list(model.parameters())
    is_slow = parameters[0].device.type == "cpu" and sum(one.numel() for one in parameters) > _LARGE
    if options.blank_images == BlankImages.auto and is_slow:
        return BlankAnswers(
            [], [], "on a CPU this model is slow; evaluation.blank_images=always answers them."
        )
    indices = _choose_first(examples, metric, options.blank_limit)
    blank = evaluate(
        model,
        replace(examples.select(indices), blank=True),
        collator,
        metric,
        replace(options, loss=False),
        workers=choose_workers(trainer.dataloader_num_workers, len(indices)).processes,
        autocast=half_precision(trainer),
    )
    return BlankAnswers(blank.rows, indices)


def _choose_first(examples: ExampleDataset, metric: Metric, limit: int) -> list[int]:
    """Return the indices of the first examples; of a metric of pairs, those of whole pairs."""
    if not any(isinstance(part, PairAccuracy) for part in metrics_of(metric)):
        return list(range(min(limit, len(examples))))
    groups = [read_group(row) for row in examples.iterate_rows()]
    kept = set(list(dict.fromkeys(groups))[: max(1, limit // 2)])
    return [index for index, group in enumerate(groups) if group in kept]


def describe_evidence(
    options: ReportConfig, metric: Metric, evaluation: Evaluation, blank: BlankAnswers | None
) -> dict[str, Any]:
    """Return the entries of `metrics.json` that stand next to the scores.

    Args:
        options: how many samples the intervals are computed from.
        metric: scores each sample.
        evaluation: the scored set.
        blank: the same examples, or some of them, without their images.

    Returns:
        `intervals`: field -> lower end, upper end, number of samples. `baseline`: `scores` with gray
        images, `with_images` those of the same `n` examples, and `difference` with its interval.
    """
    limits = {"resamples": options.resamples, "seconds": options.interval_seconds}
    intervals = bootstrap(
        metric, evaluation.rows, resamples=options.resamples, seconds=options.interval_seconds
    )
    evidence: dict[str, Any] = {"intervals": {field: _write(one)[1:] for field, one in intervals.items()}}
    if blank is not None:
        evidence["baseline"] = _compare_blank(limits, metric, evaluation, blank)
    return evidence


def _compare_blank(
    limits: Mapping[str, Any], metric: Metric, evaluation: Evaluation, blank: BlankAnswers
) -> dict[str, Any]:
    if blank.skipped:
        return {"skipped": blank.skipped}
    rows = [evaluation.rows[index] for index in blank.indices]
    difference = bootstrap_difference(metric, rows, blank.rows, **limits)
    return {
        "n": len(rows),
        "scores": metric.compute(blank.rows),
        "with_images": metric.compute(rows),
        "difference": {field: _write(one)[:3] for field, one in difference.items()},
    }


def _write(interval: Interval) -> list[float]:
    return [interval.value, interval.low, interval.high, interval.resamples]
