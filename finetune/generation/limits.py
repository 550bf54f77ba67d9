"""Keeps a batch of answers within their automata, whose forms may differ from row to row."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from finetune.errors import UserError
from finetune.example import AnswerForm
from finetune.generation.automaton import Automaton, State
from finetune.generation.spelling import Alphabet, read_alphabet


class Limits:
    """The states of a batch's answers, which move on with each of their tokens.

    Args:
        steps: most tokens of an answer, including EOS.
        copies: beams of each answer.
    """

    def __init__(self, steps: int, copies: int = 1) -> None:
        self._steps, self._copies = steps, copies
        self._automata: list[Automaton] = []
        self._states: list[State | None] = []
        self._left: list[int] = []

    def join(self, automata: Sequence[Automaton]) -> None:
        """Add answers at their first token, after those that are there."""
        added = [automaton for automaton in automata for _ in range(self._copies)]
        self._automata += added
        self._states += [automaton.start for automaton in added]
        self._left += [self._steps] * len(added)

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows, and drop the others."""
        self._automata = [self._automata[row] for row in rows]
        self._states = [self._states[row] for row in rows]
        self._left = [self._left[row] for row in rows]

    def mask(self, scores: Tensor) -> Tensor:
        """Return scores of the next tokens, minus infinity for those that may not follow: (rows, V)."""
        allowed = list(map(_list_allowed, self._automata, self._states, self._left))
        rows = np.repeat(np.arange(len(allowed)), [len(ids) for ids in allowed])
        where = torch.from_numpy(np.stack([rows, np.concatenate(allowed)])).to(scores.device)
        masked = torch.full_like(scores, -torch.inf)
        masked[where[0], where[1]] = scores[where[0], where[1]]
        return masked

    def advance(self, tokens: Sequence[int], parents: Sequence[int] | None = None) -> None:
        """Add a token to each answer.

        Args:
            tokens: one for each row.
            parents: the row whose answer each of them continues; None: its own.
        """
        states = self._states if parents is None else [self._states[parent] for parent in parents]
        self._left = [left - 1 for left in self._left]
        self._states = [
            state if state is None or state.ended else automaton.advance(state, token)
            for automaton, state, token in zip(self._automata, states, tokens, strict=True)
        ]


def _list_allowed(automaton: Automaton, state: State | None, left: int) -> np.ndarray:
    """Return the tokens that may follow; none where a beam was cut off, which is never chosen."""
    return np.empty(0, np.int64) if state is None else automaton.allowed(state, left)


def build_automata(
    forms: Sequence[AnswerForm], tokenizer: PreTrainedTokenizerBase, steps: int
) -> list[Automaton]:
    """Return the automata of answers.

    Args:
        forms: of the answers, one for each prompt.
        tokenizer: the checkpoint's.
        steps: most tokens of an answer, including EOS.

    Raises:
        UserError: an answer has no room for the shortest that its form has.
    """
    alphabet = _alphabet(tokenizer)
    automata = [_automaton(form, alphabet) for form in forms]
    needed = max(automaton.shortest for automaton in automata)
    if needed > steps:
        raise UserError(
            f"evaluation.max_new_tokens={steps}: evaluation.grammar allows no answer that is so short. The "
            f"shortest takes {needed:g} tokens, EOS among them."
        )
    return automata


@lru_cache(maxsize=4)
def _alphabet(tokenizer: PreTrainedTokenizerBase) -> Alphabet:
    return read_alphabet(tokenizer)


@lru_cache(maxsize=512)
def _automaton(form: AnswerForm, alphabet: Alphabet) -> Automaton:
    return Automaton(form, alphabet)
