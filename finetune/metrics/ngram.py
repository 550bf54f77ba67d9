"""Runs of one to four words, counted."""

from collections import Counter
from collections.abc import Sequence

LONGEST = 4

Ngrams = Counter[tuple[str, ...]]


def count_ngrams(words: Sequence[str]) -> Ngrams:
    """Count every run of one to four words."""
    return Counter(
        tuple(words[start : start + length])
        for length in range(1, LONGEST + 1)
        for start in range(len(words) - length + 1)
    )
