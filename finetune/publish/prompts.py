"""What a reader has to write, and what the model answers: the prompts and answers of a run's tasks."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from finetune.tasks.task import fill_template, template_columns

_IMAGE = re.compile(r"[0-9a-f]{32}|.*\.\w{2,5}", re.DOTALL)
"""The digest of an image inside its row, or a file."""


@dataclass(frozen=True)
class Prompt:
    """How one task asks and answers."""

    part: str
    """Of a mixture; empty otherwise."""
    template: str | None
    """The prefix with its columns in braces; None for a custom task."""
    text: str | None
    """The whole prefix, where it is the same for every image."""
    labels: tuple[str, ...] = ()
    """The classes of boxes and masks."""
    boxes: bool = False
    masks: bool = False
    writes_label: bool = True
    """Whether a class stands after each box."""
    one_class: bool = False
    """Whether a prompt asks for one class."""
    divisor: int = 1023
    """What a location is divided by."""
    answer: str | None = None
    """How a choice is answered, such as `{letter}`."""

    @property
    def columns(self) -> list[str]:
        """What is filled into the template for each image."""
        return [] if self.template is None else template_columns(self.template)

    @property
    def example(self) -> str:
        """The prefix for the loading code; where it differs from image to image, still with its braces."""
        if self.text is not None:
            return self.text
        if self.template is None:
            return "..."
        if "labels" in self.columns and self.labels:
            labels = self.labels[:1] if self.one_class else self.labels
            others = {name: f"{{{name}}}" for name in self.columns}
            return fill_template(self.template, others, labels=" ; ".join(labels))
        return self.template


def list_prompts(config: DictConfig, rows: Path) -> tuple[Prompt, ...]:
    """Return how each task of a run asks.

    Args:
        config: the content of `config.yaml`.
        rows: the file of the prediction rows; may be missing.
    """
    parts = OmegaConf.select(config, "dataset.parts")
    nodes = (
        {str(name): part.get("task") for name, part in parts.items()} if parts else {"": config.get("task")}
    )
    prefixes = _find_prefixes(rows)
    prompts = []
    for name, node in nodes.items():
        task = OmegaConf.to_container(node) if OmegaConf.is_config(node) else {}
        prompts.append(_read_task(name, task if isinstance(task, dict) else {}, prefixes.get(name)))
    return tuple(prompts)


def count_images(rows: Path) -> int:
    """Return the number of images of the first prediction row, which names them one after the other."""
    if not rows.is_file():
        return 1
    with rows.open(encoding="utf-8") as lines:
        try:
            row = json.loads(next(lines, "{}"))
        except ValueError:
            return 1
    names = str(row.get("image", "")).split(", ")
    return len(names) if all(map(_IMAGE.fullmatch, names)) else 1


def _read_task(name: str, task: Mapping[Any, Any], text: str | None) -> Prompt:
    template = task.get("prompt")
    template = template if isinstance(template, str) and "_target_" not in task else None
    is_scene = "write_label" in task
    if template is not None and text is None and not template_columns(template):
        text = template.format()
    return Prompt(
        part=name,
        template=template,
        text=text,
        labels=tuple(str(label) for label in task.get("labels") or ()),
        boxes=is_scene or bool(task.get("objects")),
        masks=bool(task.get("masks")),
        writes_label=bool(task.get("write_label", True)),
        one_class=task.get("classes") in ("one", "present"),
        divisor=int(task.get("divisor") or 1023),
        answer=task.get("suffix") if "choice" in task else None,
    )


def _find_prefixes(rows: Path) -> dict[str, str]:
    """Return the prefix of each part whose rows all have the same one.

    One that differs from row to row is data, such as a question, and is nobody's to publish.
    """
    seen: dict[str, set[str]] = {}
    counts: dict[str, int] = {}
    if rows.is_file():
        with rows.open(encoding="utf-8") as lines:
            for line in lines:
                try:
                    row = json.loads(line)
                except ValueError:
                    return {}
                name = str(row.get("part", ""))
                counts[name] = counts.get(name, 0) + 1
                if len(prefixes := seen.setdefault(name, set())) < 2:
                    prefixes.add(str(row.get("prefix", "")))
    # One row alone would always agree with itself.
    return {
        name: next(iter(prefixes))
        for name, prefixes in seen.items()
        if len(prefixes) == 1 and counts[name] > 1
    }
