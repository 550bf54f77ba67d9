"""How long the answers of a split are, before any is generated."""

from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from finetune.data.examples.dataset import ExampleDataset

_AT_ONCE = 1024
"""Texts that are tokenised together."""

_ANY_SIZE = 2**24
"""Pixels, so that every box lies inside."""


class ReferenceLengths(NamedTuple):
    """Lengths of a split's references, in tokens with EOS."""

    longest: int
    """That of the longest one."""
    cut: int
    """Number of examples with a reference longer than the limit."""


def measure_references(
    dataset: ExampleDataset, tokenizer: PreTrainedTokenizerBase, limit: int | None = None
) -> ReferenceLengths:
    """Measure every accepted answer of a split, without decoding an image.

    Args:
        dataset: the split.
        tokenizer: the checkpoint's.
        limit: most tokens of a generated answer, EOS among them; None: nothing is cut.
    """
    rows = []
    for row in dataset.iterate_rows():
        # Boxes take as many tokens in an image of any size; some sources leave the size to the image.
        sized = {key: _ANY_SIZE for key in ("width", "height") if row.get(key, 0) is None}
        rows.append(set(dataset.task.measure_text({**row, **sized}).suffixes))
    texts = sorted(set().union(*rows), key=lambda text: len(text.encode()), reverse=True)
    lengths: dict[str, int] = {}
    longest = 0
    for start in range(0, len(texts), _AT_ONCE):
        part = texts[start : start + _AT_ONCE]
        # No token is shorter than a byte: from here on nothing can be longer than the limit or the longest.
        if len(part[0].encode()) + 1 <= max(longest, limit or 0):
            break
        ids = tokenizer(part, add_special_tokens=False)["input_ids"]
        lengths |= {text: len(own) + 1 for text, own in zip(part, ids, strict=True)}
        longest = max(longest, *(lengths[text] for text in part))
    most = limit if limit is not None else longest
    cut = sum(any(lengths.get(text, 0) > most for text in row) for row in rows)
    return ReferenceLengths(longest, cut)
