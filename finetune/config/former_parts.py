"""Compatibility with runs whose `config.yaml` names every part by `_target_`.

The shipped choices are classes today; only a custom part is named by `_target_`.
"""

from typing import Any

_FORMER: dict[str, dict[str, tuple[str, ...]]] = {
    "dataset": {
        "canvas": ("data.canvas.load_canvases", "data.shipped.canvas.load_canvases"),
        "coco": ("data.formats.coco.load_coco",),
        "conversations": ("data.formats.conversations.load_conversations",),
        "digits": ("data.digits.load_digits", "data.shipped.digits.load_digits"),
        "hub": ("data.hub.load_hub",),
        "image_folder": ("data.formats.image_folder.load_image_folder",),
        "jsonl": ("data.formats.jsonl.load_jsonl",),
        "mixture": ("data.mixture.mix_splits", "data.examples.mixture.mix_splits"),
        "release": ("data.release.load_release",),
        "table": ("data.formats.table.load_table",),
        "voc": ("data.formats.voc.load_voc",),
        "vqav2": ("data.releases.vqav2.load_vqav2",),
        "webdataset": ("data.formats.webdataset.load_webdataset",),
        "yolo": ("data.formats.yolo.load_yolo",),
    },
    "task": {
        "choice": ("tasks.choice.ChoiceTask",),
        "detection": ("tasks.objects.ObjectsTask",),
        "text": ("tasks.text.TextTask",),
    },
    "metric": {
        "any_match": ("metrics.text.AnyMatch",),
        "anls": ("metrics.anls.Anls",),
        "caption": ("metrics.caption.Caption",),
        "choice": ("metrics.choice.Choice",),
        "counting": ("metrics.counting.Counting",),
        "detection": ("metrics.detection.Detection",),
        "edit": ("metrics.edit.EditRate",),
        "exact_match": ("metrics.text.ExactMatch",),
        "grouped_accuracy": ("metrics.grouped.GroupedAccuracy",),
        "pair_accuracy": ("metrics.pair.PairAccuracy",),
        "referring": ("metrics.referring.Referring",),
        "relaxed_accuracy": ("metrics.relaxed.RelaxedAccuracy",),
        "segmentation": ("metrics.segmentation.Segmentation",),
        "vqa_accuracy": ("metrics.vqa.VqaAccuracy",),
        "yes_no": ("metrics.yes_no.YesNo",),
    },
}
"""Group -> choice -> its former names in `finetune`."""

FORMER_TARGETS = {
    f"finetune.{target}": (group, choice)
    for group, choices in _FORMER.items()
    for choice, targets in choices.items()
    for target in targets
}
"""Former `_target_` of a shipped part -> its group and choice."""


def drop_former_targets(recipe: dict[str, Any]) -> None:
    """Remove the former `_target_` of shipped parts from a recipe whose defaults list has the choice.

    A mixture's parts were not in that list; they are added.

    Args:
        recipe: the recipe as read; changed in place.
    """
    defaults = recipe.get("defaults")
    entries = list(defaults) if isinstance(defaults, list) else []
    places = {str(key) for entry in entries for key in _items(entry)}
    for group in _FORMER:
        if f"override /{group}" in places:
            _drop(recipe.get(group))
    for name, part in _items(_items(recipe.get("dataset")).get("parts")).items():
        for key, node in _items(part).items():
            former = _drop(node)
            if former is not None and (place := f"/{former[0]}@dataset.parts.{name}.{key}") not in places:
                entries.insert(0, {place: former[1]})
    if entries:
        recipe["defaults"] = entries


def _items(node: Any) -> dict[Any, Any]:
    return node if isinstance(node, dict) else {}


def _drop(node: object) -> tuple[str, str] | None:
    """Remove a former `_target_` from a part; return its group and choice."""
    values = _items(node)
    former = FORMER_TARGETS.get(str(values.get("_target_")))
    if former is not None:
        del values["_target_"]
    return former
