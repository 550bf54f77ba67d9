"""Compatibility with runs whose `config.yaml` names every part by `_target_`.

The shipped choices are classes today; only a custom part is named by `_target_`.
"""

from typing import Any

from finetune.config.choices import GROUP_SCHEMAS

FORMER_TARGETS = {
    f"load_{choice}" if group == "dataset" else schema.__name__.removesuffix("Options"): (group, choice)
    for group, choices in GROUP_SCHEMAS.items()
    for choice, schema in choices.items()
} | {
    "load_canvases": ("dataset", "canvas"),
    "mix_splits": ("dataset", "mixture"),
    "ObjectsTask": ("task", "detection"),
}
"""Former function or class of a shipped part, in whatever module it was -> its group and choice."""


def drop_former_targets(recipe: dict[str, Any]) -> None:
    """Replace the former `_target_` of shipped parts in a recipe by a choice in its defaults list.

    A default part and a mixture's parts were not in that list; they are added.

    Args:
        recipe: the recipe as read; changed in place.
    """
    defaults = recipe.get("defaults")
    entries = list(defaults) if isinstance(defaults, list) else []
    places = {str(key) for entry in entries for key in _items(entry)}
    added, overrides = [], []
    for group in GROUP_SCHEMAS:
        former = _drop(recipe.get(group))
        if former is not None and (place := f"override /{group}") not in places:
            overrides.append({place: former[1]})
    for name, part in _items(_items(recipe.get("dataset")).get("parts")).items():
        for key, node in _items(part).items():
            former = _drop(node)
            if former is not None and (place := f"/{former[0]}@dataset.parts.{name}.{key}") not in places:
                added.append({place: former[1]})
    if added or entries or overrides:
        recipe["defaults"] = [*added, *entries, *overrides]


def _items(node: Any) -> dict[Any, Any]:
    return node if isinstance(node, dict) else {}


def _drop(node: object) -> tuple[str, str] | None:
    """Remove a former `_target_` from a part; return its group and choice."""
    values = _items(node)
    package, _, name = str(values.get("_target_")).rpartition(".")
    former = FORMER_TARGETS.get(name) if package.startswith("finetune.") else None
    if former is not None:
        del values["_target_"]
    return former
