"""BLEU over a set of captions, as COCO's evaluation computes it."""

import math
from collections import Counter
from collections.abc import Sequence

from finetune.metrics.ngram import LONGEST, count_ngrams

# Keep a product with no match above zero and a division by no words finite.
_TINY = 1e-15
_SMALL = 1e-9


def compute_bleu(
    predictions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> list[float]:
    """Return BLEU-1 to BLEU-4 of a whole set.

    Matches are summed over the set before they are divided. A run of words matches at most as often as the
    reference that has it most; the brevity penalty takes the reference nearest in length, the shorter of
    two. Without any match of four words BLEU-4 is not 0 but about 1e-5.

    Args:
        predictions: the words of each caption.
        references: the words of the captions that each is compared with.

    Returns:
        Four numbers from 0 to 1.

    Source: coco-caption bleu_scorer.py (`closest`).
    """
    matched: Counter[int] = Counter()
    guessed: Counter[int] = Counter()
    words = wanted = 0
    for prediction, accepted in zip(predictions, references, strict=True):
        most = count_ngrams([])
        for reference in accepted:
            most |= count_ngrams(reference)
        for ngram, count in (count_ngrams(prediction) & most).items():
            matched[len(ngram)] += count
        for length in range(1, LONGEST + 1):
            guessed[length] += max(0, len(prediction) - length + 1)
        words += len(prediction)
        wanted += min(
            (len(reference) for reference in accepted), key=lambda n: (abs(n - len(prediction)), n)
        )
    ratio = (words + _TINY) / (wanted + _SMALL)
    penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores = []
    product = 1.0
    for length in range(1, LONGEST + 1):
        product *= (matched[length] + _TINY) / (guessed[length] + _SMALL)
        scores.append(penalty * product ** (1 / length))
    return scores
