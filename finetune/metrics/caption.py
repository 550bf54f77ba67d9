"""Captions against several references: BLEU, ROUGE-L and CIDEr-D as COCO's evaluation has them."""

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.metrics.bleu import compute_bleu
from finetune.metrics.cider import compute_cider_d
from finetune.metrics.fields import check_option, read_prediction, read_references
from finetune.metrics.rouge import compute_rouge_l
from finetune.metrics.tokenizer import tokenize_ptb, tokenize_ptb_like, tokenize_whitespace

TOKENIZERS = ("ptb_like", "whitespace", "ptb")


def tokenize(captions: Sequence[str], tokenizer: str = "ptb_like") -> list[list[str]]:
    """Cut captions into words.

    Args:
        captions: the texts.
        tokenizer: `ptb_like`, `whitespace` or `ptb`.

    Raises:
        UserError: `ptb` lacks its package or Java.
    """
    if tokenizer == "ptb":
        return tokenize_ptb(captions)
    cut = tokenize_ptb_like if tokenizer == "ptb_like" else tokenize_whitespace
    return [cut(caption) for caption in captions]


class Caption:
    """BLEU-1 to BLEU-4 and ROUGE-L, 0 to 1, and CIDEr-D, 0 to 10, of captions; one row a picture.

    Args:
        tokenizer: `ptb_like` cuts nearly as COCO's evaluation does; `ptb` is its own tokenizer, and needs
            pycocoevalcap and Java; `whitespace` is for text that is tokenised already.
    """

    higher_is_better: Mapping[str, bool] = {
        "cider_d": True,
        "bleu_1": True,
        "bleu_2": True,
        "bleu_3": True,
        "bleu_4": True,
        "rouge_l": True,
    }

    def __init__(self, tokenizer: str = "ptb_like") -> None:
        check_option("tokenizer", tokenizer, TOKENIZERS)
        self.tokenizer = tokenizer

    def score(self, row: Mapping[str, Any]) -> None:
        """Return nothing: CIDEr-D of one caption depends on the whole set.

        Raises:
            UserError: the row has no prediction or no references.
        """
        read_prediction(row)
        read_references(row)

    def compute(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Return `cider_d`, `bleu_1` to `bleu_4` and `rouge_l`.

        Raises:
            UserError: a row has no prediction or no references, or the tokenizer lacks what it needs.
        """
        texts = [[read_prediction(row), *read_references(row)] for row in rows]
        words = iter(tokenize([text for row in texts for text in row], self.tokenizer))
        cut = [[next(words) for _ in row] for row in texts]
        predictions = [row[0] for row in cut]
        references = [row[1:] for row in cut]
        cider = compute_cider_d(predictions, references)
        bleu = compute_bleu(predictions, references)
        return {
            "cider_d": sum(cider) / len(cider),
            **{f"bleu_{length}": score for length, score in enumerate(bleu, 1)},
            "rouge_l": compute_rouge_l(predictions, references),
        }
