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
        automata: one for each row.
        steps: most tokens of an answer, including EOS.
        copies: beams of each row.
    """

    def __init__(self, automata: Sequence[Automaton], steps: int, copies: int = 1) -> None:
        self._automata = [automaton for automaton in automata for _ in range(copies)]
        self._states: list[State | None] = [automaton.start for automaton in self._automata]
        self._left = steps

    def constrain(self, tokens: Sequence[int] | None, scores: Tensor) -> Tensor:
        """Add the tokens that were chosen, if any were, and return the masked scores of the next ones."""
        if tokens is not None:
            self.advance(tokens)
        return self.mask(scores)

    def mask(self, scores: Tensor) -> Tensor:
        """Return scores of the next tokens, minus infinity for those that may not follow: (rows, V)."""
        pairs = zip(self._automata, self._states, strict=True)
        allowed = [self._allowed(automaton, state) for automaton, state in pairs]
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
        self._left -= 1
        self._states = [
            state if state is None or state.ended else automaton.advance(state, token)
            for automaton, state, token in zip(self._automata, states, tokens, strict=True)
        ]

    def _allowed(self, automaton: Automaton, state: State | None) -> np.ndarray:
        """Return the tokens that may follow; none where a beam was cut off, which is never chosen."""
        return np.empty(0, np.int64) if state is None else automaton.allowed(state, self._left)


def build_limits(
    forms: Sequence[AnswerForm], tokenizer: PreTrainedTokenizerBase, steps: int, copies: int = 1
) -> Limits:
    """Return the limits of a batch at its first token.

    Args:
        forms: of the answers, one for each row.
        tokenizer: the checkpoint's.
        steps: most tokens of an answer, including EOS.
        copies: beams of each row.

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
    return Limits(automata, steps, copies)


@lru_cache(maxsize=4)
def _alphabet(tokenizer: PreTrainedTokenizerBase) -> Alphabet:
    return read_alphabet(tokenizer)


@lru_cache(maxsize=512)
def _automaton(form: AnswerForm, alphabet: Alphabet) -> Automaton:
    return Automaton(form, alphabet)
