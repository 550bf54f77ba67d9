"""How far the answers of exported graphs agree with the model that they were made from."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from finetune.errors import UserError
from finetune.example import Prompts
from finetune.onnx.options import ExportDtype

if TYPE_CHECKING:
    from finetune.onnx.session import OnnxModel

TIE = 1e-3
"""Logits that differ by less are a tie: two correct programs may round it to either side."""

LEAST_TOKENS = 0.5
"""Share of tokens that graphs of 8 bits must choose alike; damaged ones agree on next to none."""


@dataclass(frozen=True)
class Reference:
    """A batch of prompts, and what the model answers to them."""

    prompts: Prompts
    """On the CPU, padded on the left."""
    tokens: np.ndarray
    """(B, steps) ids; whatever follows the first EOS of a row is ignored."""


@dataclass(frozen=True)
class Parity:
    """A comparison over all samples."""

    answers: int
    """Prompts that were asked."""
    equal: int
    """Answers with the same tokens up to and including EOS."""
    tokens: int
    """Tokens of the model's answers."""
    equal_tokens: int
    """Tokens that the graphs choose too, after the same tokens before them."""
    widest: float
    """Largest lead of a differing token in the graphs' logits; 0 where all are equal."""

    def check(self, dtype: ExportDtype) -> None:
        """Check that the graphs compute what the model does.

        Raises:
            UserError: they do not; says how far they are apart.
        """
        found = (
            f"{self.equal} of {self.answers} answers and {self.equal_tokens} of {self.tokens} tokens agree"
        )
        if dtype == ExportDtype.fp32 and self.widest > TIE:
            raise UserError(
                f"The exported graphs do not answer as the model does: {found}, and the logits of "
                f"differing tokens are up to {self.widest:.3g} apart; expected every token to agree, or a "
                "tie. Nothing was written. It may be a fault of these versions of torch and onnxscript."
            )
        if self.equal_tokens < LEAST_TOKENS * self.tokens:
            raise UserError(
                f"The graphs of 8 bits do not answer as the model does: {found}; expected at least "
                f"{LEAST_TOKENS:.0%} of the tokens. Nothing was written. Choose dtype=fp32."
            )


def compare(graphs: "OnnxModel", references: Iterable[Reference], end: int) -> Parity:
    """Compare each token that the graphs choose with the model's, after the same tokens before it.

    The answers are equal exactly where all of these tokens are: up to the first difference both have read
    the same.

    Args:
        graphs: the exported ones.
        references: what the model answers.
        end: id of EOS.
    """
    answers = equal = tokens = equal_tokens = 0
    widest = 0.0
    for reference in references:
        chosen = graphs.answer(reference.prompts, end, 0, expected=reference.tokens)
        is_end = reference.tokens == end
        spoken = is_end.cumsum(1) - is_end == 0
        same = (chosen.tokens == reference.tokens) & spoken
        answers += len(spoken)
        equal += int((same == spoken).all(1).sum())
        tokens += int(spoken.sum())
        equal_tokens += int(same.sum())
        widest = max(widest, float(chosen.lead[spoken].max(initial=0.0)))
    return Parity(answers, equal, tokens, equal_tokens, widest)
