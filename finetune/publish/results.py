"""The results of jobs that make a finished run usable elsewhere."""

from dataclasses import dataclass
from pathlib import Path

from finetune.result import Result


@dataclass(frozen=True)
class MergeResult(Result):
    """A merged model."""

    folder: Path
    """A plain checkpoint of transformers, with its processor."""
    difference: float
    """Greatest difference of a logit between the merged model and the adapter on the base that it was
    merged into, both computed in float32."""
    agreement: float
    """Share of the compared examples that the merged model answers like the run, percent."""
    examples: int
    """Number of the compared examples."""
