"""CIDEr-D: agreement of captions, in which words that describe few images weigh more."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from finetune.metrics.ngram import LONGEST, Ngrams, count_ngrams

# Of the Gaussian that punishes a difference in length, in words.
SIGMA = 6.0

# CIDEr-D is written 0 to 10, and times 100 in papers.
SCALE = 10.0


@dataclass(frozen=True)
class _Vector:
    weights: dict[tuple[str, ...], float]
    norms: list[float]
    """For runs of one, two, three and four words."""
    length: int
    """Number of runs of two words, which is what the scorer means by length."""


def compute_cider_d(
    predictions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> list[float]:
    """Score every caption of a set.

    How rare a run of words is, is counted over the references of this very set, so a caption's score
    depends on the other images, and a set of one image scores 0.

    Args:
        predictions: the words of each image's caption.
        references: the words of the captions that each is compared with.

    Returns:
        One score an image, 0 to 10; the set's is their mean.

    Source: Vedantam et al. 2015, https://arxiv.org/abs/1411.5726; coco-caption cider_scorer.py, with
        clipped counts and the penalty on length.
    """
    counted = [[count_ngrams(reference) for reference in accepted] for accepted in references]
    images = Counter(ngram for accepted in counted for ngram in set().union(*accepted))
    scores = []
    for prediction, accepted in zip(predictions, counted, strict=True):
        answer = _weigh(count_ngrams(prediction), images, len(counted))
        similar = [_similarity(answer, _weigh(reference, images, len(counted))) for reference in accepted]
        scores.append(SCALE * sum(similar) / len(similar))
    return scores


def _weigh(ngrams: Ngrams, images: Counter[tuple[str, ...]], total: int) -> _Vector:
    weights = {
        ngram: count * (math.log(total) - math.log(max(1, images[ngram])))
        for ngram, count in ngrams.items()
    }
    squares = [0.0] * LONGEST
    for ngram, weight in weights.items():
        squares[len(ngram) - 1] += weight**2
    length = sum(count for ngram, count in ngrams.items() if len(ngram) == 2)
    return _Vector(weights, [math.sqrt(square) for square in squares], length)


def _similarity(answer: _Vector, reference: _Vector) -> float:
    products = [0.0] * LONGEST
    for ngram, weight in answer.weights.items():
        other = reference.weights.get(ngram, 0.0)
        products[len(ngram) - 1] += min(weight, other) * other
    cosines = [
        product / (one * other) if one and other else 0.0
        for product, one, other in zip(products, answer.norms, reference.norms, strict=True)
    ]
    penalty = math.exp(-((answer.length - reference.length) ** 2) / (2 * SIGMA**2))
    return penalty * sum(cosines) / LONGEST
