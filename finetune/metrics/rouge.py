"""ROUGE-L of captions, as COCO's evaluation computes it."""

from collections.abc import Sequence

from rapidfuzz.distance import LCSseq

BETA = 1.2


def score_rouge_l(prediction: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Score one caption by the longest common subsequence of words.

    The best precision and the best recall are taken over the references apart, so they may come from two
    different ones. Packages that take F1, or one reference at a time, come to other numbers.

    Args:
        prediction: the caption's words.
        references: the words of the captions that it is compared with.

    Returns:
        0 to 1.

    Source: coco-caption rouge.py.
    """
    # The scorer splits at single spaces, by which no words at all are one empty word.
    answer = list(prediction) or [""]
    accepted = [list(reference) or [""] for reference in references]
    common = [LCSseq.similarity(answer, reference) for reference in accepted]
    precision = max(common) / len(answer)
    recall = max(count / len(reference) for count, reference in zip(common, accepted, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def compute_rouge_l(
    predictions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> float:
    """Return the mean ROUGE-L of a set, 0 to 1."""
    scores = [score_rouge_l(one, accepted) for one, accepted in zip(predictions, references, strict=True)]
    return sum(scores) / len(scores)
