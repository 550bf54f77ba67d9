"""Options of generation, and of the evaluation that scores the answers.

`evaluate`, `predict` and the evaluations during training generate alike, from one group of options.
Imported by the configuration, so that help answers without torch: nothing heavy is imported here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from finetune.option import COUNT, Range, option
from finetune.tasks.grammar import Grammar


class EvaluateWhen(StrEnum):
    """When the model is evaluated during training."""

    no = "no"
    steps = "steps"
    epoch = "epoch"


@dataclass
class GenerationOptions:
    """How prompts are answered."""

    batch_size: int | None = option(None, Range(1, 1e6))
    """Prompts answered at once on one device. `null`: as many as fit into its memory, at most 256."""
    max_new_tokens: int | None = option(None, Range(1, 1e6))
    """Longest answer in tokens, including EOS. `null`: a quarter more than the longest reference of both
    splits, at least 16; for `predict` without a run, 128."""
    num_beams: int = option(1, Range(1, 1e4))
    """1 is greedy; more is beam search without length normalization, as in the paper."""
    grammar: Grammar = Grammar.none
    """What answers may be: `none` for anything; `auto` for what the task writes (objects of the classes in
    the prompt, none twice; one of the choices); `yes_no` or `number` for a task of texts."""


class BlankImages(StrEnum):
    """When a split is also answered without its images."""

    auto = "auto"
    always = "always"
    never = "never"


@dataclass
class EvaluationConfig(GenerationOptions):
    """Generation and scores over the validation split."""

    strategy: EvaluateWhen = EvaluateWhen.no
    """During training: `no`, every `steps`, or each `epoch`. The finished model is always evaluated."""
    steps: int | None = option(None, COUNT)
    """Steps between two evaluations under `strategy=steps`."""
    limit: int | None = option(None, COUNT)
    """Evaluate on the first n examples only; with a mixture, the first n of each part."""
    pictures: int = option(10, Range(0, 1e6))
    """Number of predictions to draw into the run's `pictures/` (tasks with boxes or masks)."""
    blank_images: BlankImages = BlankImages.auto
    """Also answer examples with gray images, once, at the end: a model that scores as well without them
    ignores them. `auto`: not where a model of over 10^9 parameters runs on a CPU."""
    blank_limit: int = option(200, COUNT)
    """Most examples to answer with gray images; the first ones."""
    loss: bool = True
    """Also compute the loss over the first accepted suffix."""
    metric_for_best_model: str | None = None
    """Field of the evaluation, such as `vqa_accuracy`, `confidence` or `loss`, by which the best
    checkpoint is chosen. `null`: the last checkpoint is the result."""
    early_stopping_patience: int | None = option(None, COUNT)
    """Stop after this many evaluations without improvement."""

    def problems(self, prefix: str) -> Iterator[str]:
        """Yield options that contradict each other."""
        if self.strategy == EvaluateWhen.steps and self.steps is None:
            yield f"{prefix}strategy=steps: say how many, {prefix}steps=500."
        if self.strategy != EvaluateWhen.steps and self.steps is not None:
            yield f"{prefix}steps is given: it needs {prefix}strategy=steps."
        if self.metric_for_best_model and self.strategy == EvaluateWhen.no:
            best = f"{prefix}metric_for_best_model"
            yield (
                f"{best}={self.metric_for_best_model} compares evaluations: add {prefix}strategy=epoch, or "
                f"{best}=null to keep the last checkpoint."
            )
        if self.early_stopping_patience and not self.metric_for_best_model:
            yield f"{prefix}early_stopping_patience needs {prefix}metric_for_best_model."
