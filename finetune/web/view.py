"""What the page shows, as HTML; every text in it is escaped."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import escape
from PIL import Image

from finetune.codecs.rle import decode_rle
from finetune.config.publishing import Demo
from finetune.errors import UserError, printable
from finetune.example import PredictionRow, SceneObject
from finetune.metrics.units import unit_of
from finetune.report.draw import label_color
from finetune.report.page import format_number, render
from finetune.report.thumbnail import thumbnail
from finetune.web.answers import Answered

_MOST_PROMPTS = 3
_MOST_LETTERS = 400
_SIDE = 160
"""Pixels of an image in the table."""

NOTHING_YET = '<div class="ft-empty">{}</div>'
"""Where an answer will stand."""


def show_header(options: Demo, metrics: Mapping[str, Any]) -> str:
    """Return the name of a model, what it is, and its score."""
    facts = [f"base {options.model.path}"]
    if options.run is not None:
        facts.append(options.peft.method.value if options.peft.method.value != "none" else "every weight")
        intervals, final = metrics.get("intervals") or {}, metrics.get("final") or {}
        name = next((name for name in intervals if name in final), None)
        if name is not None:
            unit = unit_of(name)
            share = f"{final[name]:.1f} %" if unit == "%" else format_number(final[name])
            facts.append(f"{name} {share} on {final.get('n', 0):,} validation examples")
    elif options.adapter is not None:
        facts.append(f"adapter {options.adapter}")
    return render("demo_header.html.j2", name=name_model(options), facts=facts)


def name_model(options: Demo) -> str:
    """Return the name of the run's folder, or of the adapter or checkpoint."""
    return str(options.run or options.adapter or options.model.path).rstrip("/").rpartition("/")[2]


def show_prompts(prompts: Sequence[str], missing: str = "") -> str:
    """Return the prompts that will be asked, or why there are none yet."""
    return render(
        "demo_prompt.html.j2",
        prompts=prompts[:_MOST_PROMPTS],
        more=len(prompts) - len(prompts[:_MOST_PROMPTS]),
        missing=missing,
    )


def show_answer(answered: Answered, longest: int | None, right: str = "") -> str:
    """Return the answers about one image.

    Args:
        answered: has one row or several.
        longest: tokens that an answer may have.
        right: the right answer, if it is known.
    """
    rows = []
    for row in answered.rows:
        objects = row.get("prediction_objects") or []
        rows.append(
            {
                "unfinished": False,
                "prediction_objects": [],
                **row,
                "shown": [_describe(one) for one in objects],
                "masked": any(one.get("mask_rle") for one in objects),
            }
        )
    return render("demo_answer.html.j2", rows=rows, longest=longest, right=right)


def _describe(one: SceneObject) -> dict[str, object]:
    left, top, right, bottom = one["box_xyxy"]
    rle = one.get("mask_rle")
    area = "" if rle is None else f"{int(decode_rle(rle, (rle['size'][0], rle['size'][1])).sum()):,}"
    score = one.get("score")
    return {
        "label": one.get("label") or "",
        "color": f"rgb{label_color(one.get('label') or '')}",
        "score": "" if score is None else f"{100 * score:.0f} %",
        "sides": [f"{side:.0f}" for side in (left, top, right - left, bottom - top)],
        "area": area,
    }


def show_batch(answers: Sequence[Answered], images: Sequence[Image.Image | None]) -> str:
    """Return the answers about several images as a table.

    Args:
        answers: of each image.
        images: the drawn images; None for one that cannot be decoded.
    """
    shown = [
        {
            "name": one.upload.name,
            "fault": one.fault,
            "thumbnail": "" if image is None else thumbnail(image, _SIDE, 12_000),
            "rows": [{**row, "text": _shorten(row)} for row in one.rows],
        }
        for one, image in zip(answers, images, strict=True)
    ]
    left_out = sum(bool(one.fault) for one in answers)
    return render(
        "demo_batch.html.j2",
        images=shown,
        total=len(answers),
        answered=len(answers) - left_out,
        left_out=left_out,
    )


def _shorten(row: PredictionRow) -> str:
    """Return an answer in a few words: of objects, how many of which class."""
    objects = row.get("prediction_objects") or []
    if objects:
        counts: dict[str, int] = {}
        for one in objects:
            name = one.get("label") or "object"
            counts[name] = counts.get(name, 0) + 1
        return ", ".join(name if count == 1 else f"{count} x {name}" for name, count in counts.items())
    text = row["prediction"].strip()
    return f"{text[:_MOST_LETTERS]}..." if len(text) > _MOST_LETTERS else text or "(empty answer)"


def explain(error: UserError) -> str:
    """Return a message as HTML: Gradio shows it as that."""
    return str(escape(printable(str(error).removeprefix("predict: "))))
