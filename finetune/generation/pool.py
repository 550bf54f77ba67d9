"""Answers that grow together: a prompt that is answered leaves, and another one takes its place."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from finetune.generation.automaton import Automaton
from finetune.generation.search import Search, Spoken
from finetune.model.cache import RowCache
from finetune.model.decoder import Decoder

Deliver = Callable[[Spoken], None]
"""Takes the answer to a prompt."""


class Pool:
    """Prompts that are being answered, each in one row or, under beam search, in several.

    Args:
        decoder: reads their tokens.
        search: chooses them; of no prompt yet.
        size: most prompts.
    """

    def __init__(self, decoder: Decoder, search: Search, size: int) -> None:
        self._decoder, self._search, self._size = decoder, search, size
        self._cache: RowCache | None = None
        self._logits: Tensor | None = None
        self._receivers: list[Deliver] = []

    def __len__(self) -> int:
        return len(self._receivers)

    def join(
        self,
        logits: Tensor,
        cache: RowCache,
        receivers: Sequence[Deliver],
        automata: Sequence[Automaton] | None = None,
    ) -> None:
        """Begin the answers to prompts that were read.

        Args:
            logits: of their first tokens: (prompts, V).
            cache: of the prompts.
            receivers: get the answers.
            automata: of the answers, where they are limited.
        """
        copies = self._search.copies
        logits = logits.repeat_interleave(copies, 0)
        cache = cache.select([row for row in range(len(cache)) for _ in range(copies)])
        if self._cache is None or self._logits is None:
            self._cache, self._logits = cache, logits
        else:
            self._cache.join(cache, self._size * copies)
            self._logits = torch.cat([self._logits, logits])
        self._search.join(len(receivers), automata)
        self._receivers += receivers

    def step(self) -> None:
        """Add a token to each answer, and deliver those that have ended."""
        assert self._cache is not None
        assert self._logits is not None
        choice = self._search.choose(self._logits)
        tokens = choice.tokens
        if choice.parents is not None:
            self._cache.reorder(choice.parents)
        if choice.ended:
            for number in choice.ended:
                self._receivers[number](self._search.take(number))
            kept = _close_ranks(len(self), choice.ended)
            self._receivers = [self._receivers[number] for number in kept]
            self._search.keep(kept)
            copies = range(self._search.copies)
            rows = [number * len(copies) + copy for number in kept for copy in copies]
            if not rows:
                self._cache = self._logits = None
                return
            self._cache.keep(rows)
            tokens = tokens[torch.tensor(rows, device=tokens.device)]
        self._logits = self._decoder.read_tokens(tokens, self._cache)


def _close_ranks(count: int, ended: Sequence[int]) -> list[int]:
    """Return the numbers that are left, the last ones in the places of those that ended before them."""
    left = count - len(ended)
    gone = set(ended)
    movers = iter([number for number in range(left, count) if number not in gone])
    return [next(movers) if number in gone else number for number in range(left)]
