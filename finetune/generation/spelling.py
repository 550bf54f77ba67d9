"""How texts are spelled in tokens: every way that the vocabulary has, not only the tokenizer's own.

A model may write ` cat` as one token, as ` c` and `at`, or byte by byte. All of these are the same answer,
so that an automaton over one spelling would change answers that were right.
"""

import math
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from transformers import PreTrainedTokenizerBase

from finetune.codecs.boxes import CODES, DIVISOR

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_OWN_TOKEN = re.compile(r"<(loc[0-9]{4}|seg[0-9]{3}|image)>")
_SPACE = "\u2581"
"""SentencePiece's sign for a space."""

_MOST_DIGITS = 15
"""Digits on either side of the point: an answer of endless digits is no number."""


class Alphabet:
    """The tokens that answers are written with.

    Args:
        pieces: bytes of a text -> ids of the tokens that stand for exactly these.
        locations: ids of the location tokens, in the order of their bins.
        codes: ids of the mask codes.
        end: id of EOS.
    """

    def __init__(
        self,
        pieces: Mapping[bytes, Sequence[int]],
        locations: Sequence[int],
        codes: Sequence[int],
        end: int,
    ) -> None:
        self.locations = np.array(locations, dtype=np.int64)
        self.codes = np.array(codes, dtype=np.int64)
        self.bins = {token: bin_ for bin_, token in enumerate(locations)}
        self.end = end
        self._pieces = pieces
        self._sorted = sorted(pieces)

    def find(self, text: bytes) -> tuple[Sequence[int], bool]:
        """Return the tokens that stand for these bytes, and whether longer tokens begin with them."""
        place = bisect_left(self._sorted, text)
        ids = self._pieces.get(text, ())
        place += bool(ids)
        return ids, place < len(self._sorted) and self._sorted[place].startswith(text)


def read_alphabet(tokenizer: PreTrainedTokenizerBase) -> Alphabet:
    """Return the alphabet of a checkpoint."""
    special = set(tokenizer.all_special_ids)
    pieces: dict[bytes, list[int]] = {}
    for piece, token in tokenizer.get_vocab().items():
        if token in special or _OWN_TOKEN.fullmatch(piece):
            continue
        byte = _BYTE.fullmatch(piece)
        text = bytes([int(byte[1], 16)]) if byte else piece.replace(_SPACE, " ").encode()
        pieces.setdefault(text, []).append(token)
    locations = tokenizer.convert_tokens_to_ids([f"<loc{bin_:04d}>" for bin_ in range(DIVISOR + 1)])
    codes = tokenizer.convert_tokens_to_ids([f"<seg{code:03d}>" for code in range(CODES)])
    return Alphabet(pieces, locations, codes, tokenizer.eos_token_id)


class Node:
    """A place in a text: what was written so far, and the tokens that may follow.

    Attributes:
        steps: the next byte -> where it leads.
        tokens: the next token -> where it leads.
        text: the whole text, if it may end here.
        parted: the text before it, if this place is inside the separator after a text.
        to_end: fewest tokens from here to the end of a text; infinite if there is none.
        to_next: fewest tokens from here to the end of the separator; infinite outside it.
    """

    __slots__ = ("parted", "steps", "text", "to_end", "to_next", "tokens")

    def __init__(self) -> None:
        self.steps: dict[int, Node] = {}
        self.tokens: dict[int, Node] = {}
        self.text: str | None = None
        self.parted: str | None = None
        self.to_end: float = math.inf
        self.to_next: float = math.inf


def spell_texts(texts: Sequence[str], alphabet: Alphabet, separator: str = "") -> Node:
    """Return the beginning of the texts, of which one is written.

    Args:
        texts: what may be written; one may be the beginning of another.
        alphabet: the tokens.
        separator: may follow each of them, if there is another object after it. No text contains it.
    """
    nodes = [Node()]

    def walk(node: Node, text: str) -> list[Node]:
        path = []
        for byte in text.encode():
            if byte not in node.steps:
                node.steps[byte] = Node()
                nodes.append(node.steps[byte])
            node = node.steps[byte]
            path.append(node)
        return path

    for text in texts:
        end = [nodes[0], *walk(nodes[0], text)][-1]
        end.text = text
        between = walk(end, separator)
        for node in between:
            node.parted = text
        if between:
            between[-1].to_next = 0
    return _finish(nodes, alphabet)


def spell_numbers(alphabet: Alphabet) -> Node:
    """Return the beginning of numbers: digits, perhaps with a minus, a decimal point or a percent sign."""
    start, minus, percent = Node(), Node(), Node()
    whole, decimals = ([Node() for _ in range(_MOST_DIGITS)] for _ in range(2))
    points = [Node() for _ in whole]
    start.steps[ord("-")] = minus
    for digit in b"0123456789":
        start.steps[digit] = minus.steps[digit] = whole[0]
        for line in (whole, decimals):
            for node, following in pairwise(line):
                node.steps[digit] = following
        for point in points:
            point.steps[digit] = decimals[0]
    for node, point in zip(whole, points, strict=True):
        node.steps[ord(".")] = point
    for node in (*whole, *decimals):
        node.text, node.steps[ord("%")] = "", percent
    percent.text = ""
    return _finish([start, minus, *whole, *points, *decimals, percent], alphabet)


def _finish(nodes: Sequence[Node], alphabet: Alphabet) -> Node:
    """Find the tokens and distances of nodes, each of which stands before those that it leads to."""
    for node in reversed(nodes):
        paths = [(bytes([byte]), following) for byte, following in node.steps.items()]
        while paths:
            text, reached = paths.pop()
            ids, longer = alphabet.find(text)
            node.tokens.update(dict.fromkeys(ids, reached))
            if longer:
                paths += [(text + bytes([byte]), following) for byte, following in reached.steps.items()]
        after = node.tokens.values()
        node.to_end = min((1 + one.to_end for one in after), default=math.inf)
        if node.text is not None:
            node.to_end = 0
        if node.parted is not None and node.to_next:
            node.to_next = min((1 + one.to_next for one in after), default=math.inf)
    return nodes[0]
