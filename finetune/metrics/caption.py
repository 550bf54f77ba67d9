"""Captions against several references: BLEU, ROUGE-L and CIDEr-D as COCO's evaluation has them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from finetune.metrics.bleu import compute_bleu
from finetune.metrics.cider import compute_cider_d
from finetune.metrics.fields import check_choices, read_prediction, read_references
from finetune.metrics.rouge import compute_rouge_l
from finetune.metrics.tokenizer import tokenize_ptb, tokenize_ptb_like, tokenize_whitespace


class CaptionTokenizer(StrEnum):
    """Tokenizers of captions."""

    ptb_like = "ptb_like"
    whitespace = "whitespace"
    ptb = "ptb"


def tokenize(captions: Sequence[str], tokenizer: CaptionTokenizer) -> list[list[str]]:
    """Cut captions into words.

    Args:
        captions: the texts.
        tokenizer: what cuts them.

    Raises:
        UserError: `ptb` lacks its package or Java.
    """
    if tokenizer == CaptionTokenizer.ptb:
        return tokenize_ptb(captions)
    cut = tokenize_ptb_like if tokenizer == CaptionTokenizer.ptb_like else tokenize_whitespace
    return [cut(caption) for caption in captions]


@dataclass(frozen=True)
class Caption:
    """CIDEr-D (0 to 10), BLEU-1 to 4 and ROUGE-L (0 to 1) as COCO computes them; one row an image."""

    higher_is_better: ClassVar[Mapping[str, bool]] = {
        "cider_d": True,
        "bleu_1": True,
        "bleu_2": True,
        "bleu_3": True,
        "bleu_4": True,
        "rouge_l": True,
    }

    tokenizer: CaptionTokenizer = CaptionTokenizer.ptb_like
    """`ptb_like` follows Stanford's tokenizer without Java; `ptb` is the original and needs Java and
    `pip install 'finetune-paligemma[ptb]'`; `whitespace` is for text that is tokenized already."""

    def __post_init__(self) -> None:
        check_choices(self)

    def score(self, row: Mapping[str, object]) -> None:
        """Return nothing: CIDEr-D of one caption depends on the whole set."""
        read_prediction(row)
        read_references(row)

    def compute(self, rows: Sequence[Mapping[str, object]]) -> dict[str, float]:
        """Return `cider_d`, `bleu_1` to `bleu_4` and `rouge_l`."""
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
