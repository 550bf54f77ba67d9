"""Options of generation, and of the evaluation that scores what was generated.

`evaluate`, `predict` and the evaluations of a training generate alike, from one group of options. Imported
by the configuration, so that help answers without torch: nothing heavy is imported here.
"""

from dataclasses import dataclass
from enum import StrEnum

from finetune.option import COUNT, Range, option


class EvaluateWhen(StrEnum):
    """When something happens during training."""

    no = "no"
    steps = "steps"
    epoch = "epoch"


@dataclass
class EvaluationConfig:
    """Generation and scores over the validation split."""

    strategy: EvaluateWhen = EvaluateWhen.no
    """During training: `no`, every `steps`, or each `epoch`. The finished model is always evaluated."""
    steps: int | None = option(None, COUNT)
    """Steps between two evaluations under `strategy=steps`."""
    limit: int | None = option(None, COUNT)
    """Evaluate only the first n examples; of a mixture as many of each part."""
    batch_size: int = option(16, Range(1, 1e6))
    """Examples generated at once on one device."""
    max_new_tokens: int | None = option(None, Range(1, 1e6))
    """Longest answer in tokens, EOS among them. Null: a quarter more than the longest reference of both
    splits, at least 16; `predict` without a run: 128."""
    num_beams: int = option(1, Range(1, 1e4))
    """1 is greedy; more is beam search without length normalisation, as in the paper."""
    pictures: int = option(10, Range(0, 1e6))
    """Predictions that are drawn into the run's `pictures/`, where answers name places."""
    loss: bool = True
    """Also compute the loss over the first accepted suffix."""
    metric_for_best_model: str | None = None
    """Field of the evaluation, such as `vqa_accuracy`, `confidence` or `loss`, by which the best
    checkpoint is chosen. Null: the last one is the result."""
    early_stopping_patience: int | None = option(None, COUNT)
    """Stop after this many evaluations without improvement."""
