"""What is doubtful about the data of a run, although a training would accept it."""

from collections.abc import Iterator, Mapping

from finetune.assembly.lengths import measure_answers
from finetune.assembly.review import Review, Reviewed, name_rows, place_findings
from finetune.config.schema import RunConfig
from finetune.data.examples.summary import Summary
from finetune.example import RowFinding
from finetune.tasks.objects import list_names

_FEW = 10
"""Rows below which equal answers say nothing."""
_SAME = 0.95
"""Share of equal answers that is doubtful."""
_ODD = 0.5
"""What fewer of the rows than this have is probably a mistake; what more have is probably meant."""
_LONG = 2.0
"""Ratio of an image's sides from which squashing it into a square is doubtful."""
_SMALL = 4.0
"""Pixels below which the side of a box is doubtful."""


def find_doubts(
    config: RunConfig, review: Review, summaries: Mapping[str, Summary], side: int
) -> list[RowFinding]:
    """Return what is doubtful, and rows that lack the prompt which the others have, a fault.

    Args:
        config: options of the run.
        review: the data.
        summaries: of each split.
        side: of the images that the model sees, pixels.
    """
    train, validation = review.splits["train"], review.splits["validation"]
    tokens = summaries["train"].tokens
    findings = [_doubt(reason) for reason in _find_cut_answers(config, train, validation, tokens)]
    for name, split in review.splits.items():
        summary = summaries[name]
        findings += [
            _doubt(reason, name)
            for reasons in (
                _find_equal_answers(summary),
                _find_long_images(split),
                _find_boxes(summary, side),
            )
            for reason in reasons
        ]
        findings += _find_odd_texts(split, summary)
    return [*findings, *_compare_classes(summaries)]


def _doubt(reason: str, split: str = "") -> RowFinding:
    return RowFinding(reason, is_fault=False, split=split)


def _find_cut_answers(
    config: RunConfig, train: Reviewed, validation: Reviewed, tokens: list[int]
) -> Iterator[str]:
    limit = config.evaluation.max_new_tokens
    answers = measure_answers(validation.survey, train.survey, limit)
    if limit is not None and answers.cut:
        yield (
            f"evaluation.max_new_tokens={limit} cuts the answers of {answers.cut:,} of "
            f"{len(validation.survey):,} validation examples: their references have up to "
            f"{answers.longest} tokens with EOS. evaluation.max_new_tokens=null has room for them."
        )
    budget = config.collator.max_text_length
    long = sum(count > budget for count in tokens)
    if train.collator.shorten_prefix and long:
        yield (
            f"The prompts of {long:,} of {len(tokens):,} train examples are shortened to "
            f"collator.max_text_length={budget}."
        )


def _find_equal_answers(summary: Summary) -> Iterator[str]:
    total = summary.answers.total()
    answer, count = next(iter(summary.answers.most_common(1)), ("", 0))
    if total >= _FEW and count >= _SAME * total:
        yield (
            f"{count:,} of {total:,} answers are {_quote(answer)}: a model that ignores its images is "
            "right nearly always."
        )
    if len(summary.objects) >= _FEW and not any(summary.objects):
        yield f"None of {len(summary.objects):,} images has an object."


def _find_long_images(split: Reviewed) -> Iterator[str]:
    sizes = [image.size for row in split.images.values() for image in row.images]
    long = [size for size in sizes if max(size) >= _LONG * min(size)]
    if long:
        height, width = max(long, key=lambda size: max(size) / min(size))
        yield (
            f"{len(long):,} of {len(sizes):,} images are at least twice as wide as high, or as high as "
            f"wide: the model sees them squashed into a square (the most: {width} x {height})."
        )


def _find_boxes(summary: Summary, side: int) -> Iterator[str]:
    small = sum(min(box) * side < _SMALL for box in summary.boxes)
    if small:
        yield (
            f"{small:,} of {len(summary.boxes):,} boxes are less than {_SMALL:g} pixels wide or high in "
            f"the {side} x {side} pixels that the model sees."
        )
    if summary.not_asked and summary.names_classes:
        names = [name for name, _ in summary.not_asked.most_common()]
        yield f"Answers have classes that their own prompts do not name: {list_names(names)}."


def _find_odd_texts(split: Reviewed, summary: Summary) -> list[RowFinding]:
    findings = []
    for kind, indices in summary.places.items():
        if len(indices) >= _ODD * summary.read:
            if kind == "empty prompt":
                findings.append(_doubt("The prompts are empty.", split.examples.split))
            continue
        reason = f"its text has a {kind}, which most others do not have."
        if kind == "empty prompt":
            reason = (
                "its prompt is empty, and those of most others are not. Write one, or leave the row out."
            )
        ids = name_rows(split.examples, indices)
        reasons = {index: f"Row `{ids[index]}`: {reason}" for index in indices}
        findings += place_findings(split.examples, reasons, is_fault=kind == "empty prompt")
    return findings


def _compare_classes(summaries: Mapping[str, Summary]) -> Iterator[RowFinding]:
    """Yield the classes that are in the training split only, or not in it."""
    scored = [name for name in summaries if name != "train"]
    for name, other in [*(("train", one) for one in scored), *((one, "train") for one in scored)]:
        missing = sorted(summaries[other].classes.keys() - summaries[name].classes.keys())
        if missing and summaries[name].classes:
            yield _doubt(f"Classes of {other} without an object in {name}: {list_names(missing)}.", name)


def _quote(text: str, most: int = 60) -> str:
    return repr(text if len(text) <= most else f"{text[:most]}...")
