"""The unit of each field of an evaluation, as the field's own community writes it."""

_SHARES = {"anls", "rouge_l", "cer", "wer", "confidence"}
_UNITS = {"cider_d": "0 to 10", "mae": "objects", "loss": "nats", "n": "examples"}
_PERCENT = {
    *("exact_match", "any_match", "vqa_accuracy", "relaxed_accuracy", "mean_of_groups", "pair_accuracy"),
    *("accuracy", "within_1", "unreadable", "unfinished", "overall", "average"),
    *("precision", "recall", "f1", "yes_ratio", "fields_f1", "valid_json", "all_fields"),
    *("accuracy_50", "accuracy_75", "mean_iou", "cumulative_iou"),
    *(f"precision_{share}" for share in (50, 60, 70, 80, 90)),
}


def unit_of(field: str) -> str:
    """Return the unit of a field: `%`, `0 to 1`, a name, or nothing where it is unknown.

    Args:
        field: its name; one of several metrics may have the metric's name before it.
    """
    if field in _UNITS:
        return _UNITS[field]
    if field in _PERCENT:
        return "%"
    if field in _SHARES or field.startswith(("ap", "ar_", "bleu_")):
        return "0 to 1"
    _, metric, rest = field.partition("_")
    return unit_of(rest) if metric else ""
