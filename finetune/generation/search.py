"""What greedy and beam search have in common: answers that grow by a token in each step."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from finetune.generation.automaton import Automaton


class Spoken(NamedTuple):
    """The tokens of an answer."""

    tokens: list[int]
    """Ids, the last of them EOS unless the answer was cut."""
    probabilities: list[float]
    """Of each of them."""


class Choice(NamedTuple):
    """One step of all answers, whose rows are those of the first prompt, then those of the second."""

    tokens: Tensor
    """(rows,) int64: the next token of each row."""
    parents: Tensor | None
    """(rows,) int64: the row that each goes on from; None: itself."""
    ended: list[int]
    """The prompts whose answers are now known."""


class Search(Protocol):
    """A search for the answers to prompts that come and go. Prompts are numbered in their order."""

    copies: int
    """Rows of each prompt."""

    def __len__(self) -> int:
        """Return the number of prompts."""

    def join(self, count: int, automata: Sequence[Automaton] | None = None) -> None:
        """Add prompts after those that are there; with the automata of their answers if it has limits."""

    def choose(self, logits: Tensor) -> Choice:
        """Choose the next tokens.

        Args:
            logits: (rows, V).
        """

    def take(self, number: int) -> Spoken:
        """Return the answer to a prompt that has ended."""

    def keep(self, numbers: Sequence[int]) -> None:
        """Keep these prompts, and drop the others."""
