"""Pair accuracy: both questions of a pair must be right (MMVP)."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from finetune.errors import UserError
from finetune.metrics.fields import name_row, read_prediction, read_references, require_group
from finetune.metrics.text import score_exact_match


@dataclass(frozen=True)
class PairAccuracy:
    """Share of pairs (rows of one group) with every answer right, in percent.

    An answer is right where it equals one of its references. The two rows of a pair share their `group`;
    their places do not matter.
    """

    higher_is_better: ClassVar[Mapping[str, bool]] = {"pair_accuracy": True}

    def score(self, row: Mapping[str, object]) -> float:
        """Score one row by itself: 0 or 100."""
        return score_exact_match(read_prediction(row), read_references(row))

    def compute(self, rows: Sequence[Mapping[str, object]]) -> dict[str, float]:
        """Return `pair_accuracy`."""
        pairs: dict[str, list[Mapping[str, object]]] = defaultdict(list)
        for row in rows:
            pairs[require_group(row)].append(row)
        for group, members in pairs.items():
            if len(members) != 2:
                raise UserError(
                    f"{name_row(members[0])}: a pair is two rows with the same `group`, but "
                    f"{len(members)} have `{group}`."
                )
        return {"pair_accuracy": sum(min(map(self.score, pair)) for pair in pairs.values()) / len(pairs)}
