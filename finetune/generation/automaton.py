"""What an answer may be, token by token: an automaton over a tokenizer's ids.

Every token that it allows leads to a whole answer within the tokens that are left, so that none is cut.
"""

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from finetune.codecs.boxes import CODES_PER_MASK, SEPARATOR
from finetune.example import AnswerForm
from finetune.generation.spelling import Alphabet, Node, spell_numbers, spell_texts

_SIDES = 4
_NOTHING: Mapping[tuple[int, ...], frozenset[str]] = MappingProxyType({})


class State(NamedTuple):
    """How far an answer has come."""

    bins: tuple[int, ...] = ()
    """Of the current object: y_min, x_min, y_max, x_max, as far as they are written."""
    codes: int = 0
    """Mask codes of the current object."""
    node: Node | None = None
    """The place in its text; None before it."""
    written: Mapping[tuple[int, ...], frozenset[str]] = _NOTHING
    """The objects before it: the bins of each box -> its texts."""
    ended: bool = False
    """EOS was written."""


class Automaton:
    """The answers of one form.

    Args:
        form: what they may be.
        alphabet: the tokens that they are written with.
    """

    def __init__(self, form: AnswerForm, alphabet: Alphabet) -> None:
        self._form = form
        self._alphabet = alphabet
        self._codes = CODES_PER_MASK if form.mask else 0
        self._texts: dict[frozenset[str], Node] = {}
        if form.number:
            self._texts[frozenset()] = spell_numbers(alphabet)

    @property
    def start(self) -> State:
        """The state before the first token."""
        return State() if self._form.box else State(node=self._spell(frozenset()))

    @property
    def shortest(self) -> float:
        """Tokens of the shortest answer, including EOS; infinite if none can be written."""
        return 1 if self._form.box else 1 + self._spell(frozenset()).to_end

    def allowed(self, state: State, left: int) -> np.ndarray:
        """Return the ids of the tokens that may follow.

        Args:
            state: the tokens before.
            left: most tokens that the answer may still get, including EOS.
        """
        if state.ended:
            return np.array([self._alphabet.end])
        if state.node is not None:
            return self._allowed_in_text(state, state.node, left)
        if len(state.bins) == _SIDES:
            return self._alphabet.codes
        boxes = self._allowed_in_box(state, left)
        # Without objects the answer is empty; after a separator there is one more.
        may_end = not state.bins and not state.written
        return np.append(boxes, self._alphabet.end) if may_end else boxes

    def advance(self, state: State, token: int) -> State | None:
        """Return the state after a token; None if it was not allowed."""
        if token == self._alphabet.end:
            return state._replace(ended=True)
        if state.node is not None:
            return self._advance_in_text(state, state.node, token)
        if len(state.bins) < _SIDES:
            bin_ = self._alphabet.bins.get(token)
            if bin_ is None:
                return None
            state = state._replace(bins=(*state.bins, bin_))
        else:
            state = state._replace(codes=state.codes + 1)
        if len(state.bins) == _SIDES and state.codes == self._codes:
            return state._replace(node=self._spell(state.written.get(state.bins, frozenset())))
        return state

    def _spell(self, written: frozenset[str]) -> Node:
        """Return the beginning of the texts that an object may have."""
        if written not in self._texts:
            texts = [text for text in self._form.texts if text not in written]
            separator = SEPARATOR if self._form.box else ""
            self._texts[written] = spell_texts(texts, self._alphabet, separator)
        return self._texts[written]

    def _allowed_in_text(self, state: State, node: Node, left: int) -> np.ndarray:
        tokens = [token for token, next_ in node.tokens.items() if self._fits(state, next_, left - 1)]
        if node.text is not None:
            tokens.append(self._alphabet.end)
        return np.array(tokens, dtype=np.int64)

    def _fits(self, state: State, node: Node, left: int) -> bool:
        """Return whether an answer that is at a place of its text can be finished."""
        if node.to_end + 1 <= left:
            return True
        if node.parted is None:
            return False
        room = left - node.to_next - _SIDES - self._codes - 1
        return self._has_box(_write(state, node.parted), room)

    def _advance_in_text(self, state: State, node: Node, token: int) -> State | None:
        reached = node.tokens.get(token)
        if reached is None:
            return None
        if reached.parted is not None and reached.to_next == 0:
            return State(written=_write(state, reached.parted))
        return state._replace(node=reached)

    def _allowed_in_box(self, state: State, left: int) -> np.ndarray:
        """Return the locations, maxima from the minimum on, that lead to a box with a text left."""
        bins = state.bins
        room = left - (_SIDES - len(bins)) - self._codes - 1
        if self._spell(frozenset()).to_end > room:
            return self._alphabet.locations[:0]
        least = bins[-2] if len(bins) >= 2 else 0
        full = self._full_boxes(state.written, room)
        blocked = Counter(box[len(bins)] for box in full if box[: len(bins)] == bins)
        locations = self._alphabet.locations[least:]
        taken = [bin_ for bin_, count in blocked.items() if count == self._count_boxes((*bins, bin_))]
        return np.delete(locations, [bin_ - least for bin_ in taken]) if taken else locations

    def _has_box(self, written: Mapping[tuple[int, ...], frozenset[str]], room: float) -> bool:
        """Return whether there is a box with a text of at most `room` tokens that is not written yet."""
        if self._spell(frozenset()).to_end > room:
            return False
        return len(self._full_boxes(written, room)) < self._count_boxes(())

    def _full_boxes(
        self, written: Mapping[tuple[int, ...], frozenset[str]], room: float
    ) -> list[tuple[int, ...]]:
        """Return the boxes that have no text of at most `room` tokens left."""
        return [box for box, texts in written.items() if self._spell(texts).to_end > room]

    def _count_boxes(self, bins: tuple[int, ...]) -> int:
        """Return the number of boxes that begin with these bins."""
        most = len(self._alphabet.locations)
        pairs = most * (most + 1) // 2  # of a minimum and a maximum
        if len(bins) < 2:
            return (most - bins[0]) * pairs if bins else pairs * pairs
        rest = (most - bins[0]) * (most - bins[1]) if len(bins) == 2 else most - bins[1]
        return 1 if len(bins) == _SIDES else rest


def _write(state: State, text: str) -> Mapping[tuple[int, ...], frozenset[str]]:
    """Return the objects with the current one."""
    return {**state.written, state.bins: state.written.get(state.bins, frozenset()) | {text}}
