"""The columns of a table by their names: image, question, answers, caption, class."""

from collections.abc import Iterable, Mapping, Sequence

from finetune.data.layouts.texts import find_image_column
from finetune.data.recognition.kinds import Kind, Purpose
from finetune.data.recognition.texts import is_json, kind_of_answers, texts_of
from finetune.errors import UserError

NAMES = {
    "question": ("question", "query", "questions"),
    "answers": ("answers", "answer", "response", "multiple_choice_answer", "ground_truth", "target"),
    "captions": ("captions", "caption", "text", "description", "sentences", "sentence", "raw", "alt_text"),
    "classes": ("class", "label", "category", "classname", "class_name"),
}
"""Our column -> its usual names, in lower case; `classes` are the answers to a fixed question."""

EXTRACTION_PROMPT = "extract data in JSON format"
"""Where no column asks: maestro's prompt for the same task."""

_CORNERS = (
    {"xmin", "ymin", "xmax", "ymax"},
    {"x_min", "y_min", "x_max", "y_max"},
    {"x1", "y1", "x2", "y2"},
    {"bbox"},
)
"""Columns of one box per row, as in Roboflow's CSV for TensorFlow."""

_ABOUT = {"id", "group", "width", "height", "split", "file_size", "image_id", "question_id"}
_ASKS = {"question", "expression", "prefix"}
_ANSWERED = {"answers", "captions", "suffix", "suffixes"}


def recognize_columns(
    names: Sequence[str],
    rows: Iterable[Mapping[str, object]],
    where: str,
    given: Mapping[str, str],
    image: str | None = None,
    keeps_named: bool = False,
) -> Purpose:
    """Return what the rows of a table are for, and its columns.

    Args:
        names: the columns.
        rows: the first rows.
        where: the table, for error messages.
        given: our column -> column, as named on the command line; these are not sought.
        image: column of the images; None: by its name.
        keeps_named: only columns that are named are read.

    Raises:
        UserError: the columns do not say what is asked and what is the answer.
    """
    image = given.get("image") or image or find_image_column(dict.fromkeys(names))
    found: dict[str, str] = {} if image in {None, "image", "images"} else {"image": str(image)}
    plain = {name.strip().lower().replace(" ", "_"): name for name in names if name != image}
    if {"prefix", "suffix"} <= plain.keys() and not given.keys() & _ANSWERED:
        found |= {ours: plain[ours] for ours in ("prefix", "suffix") if keeps_named or plain[ours] != ours}
        if "suffix" in found:
            found["suffixes"] = found.pop("suffix")
        return Purpose(_kind(rows, plain["suffix"], Kind.pairs), _columns(found))
    sought = {
        ours: next((plain[name] for name in usual if name in plain), None) for ours, usual in NAMES.items()
    }
    question, answers = (
        given.get("question") or sought["question"],
        given.get("answers") or sought["answers"],
    )
    captions = given.get("captions") or sought["captions"]
    if given.get("captions") or (captions and not (question or answers)):
        return _finish({"captions": captions}, found, rows, captions, Kind.caption)
    answers = answers or (sought["classes"] or (captions if question else None))
    if answers is None:
        raise UserError(_ask(where, names, image, question))
    if question is not None:
        return _finish({"question": question, "answers": answers}, found, rows, answers, Kind.question)
    boxes = next((corners for corners in _CORNERS if corners <= plain.keys()), None)
    if boxes and not given.keys() & _ANSWERED:
        raise UserError(
            f"{where} has boxes in columns ({', '.join(plain[name] for name in sorted(boxes))}), which are "
            "not read. Export the boxes as COCO's JSON, YOLO or Pascal VOC. Or, for the class of the whole "
            f"image: dataset.columns.answers={answers}."
        )
    return _finish({"answers": answers}, found, rows, answers, Kind.classes)


def _finish(
    columns: Mapping[str, str | None],
    found: Mapping[str, str],
    rows: Iterable[Mapping[str, object]],
    answers: str | None,
    kind: Kind,
) -> Purpose:
    kind = _kind(rows, answers, kind)
    if kind == Kind.extraction and "captions" in columns:
        columns = {"answers": columns["captions"]}
    named = {ours: theirs for ours, theirs in columns.items() if theirs is not None}
    task = {}
    if kind == Kind.classes:
        task = {"task.answers": "answers"}
    if kind == Kind.extraction:
        prompt = "{question}" if "question" in columns else EXTRACTION_PROMPT
        task = {"task.prompt": prompt, "task.answers": "answers"}
    return Purpose(kind, _columns({**found, **named}), task)


def _kind(rows: Iterable[Mapping[str, object]], answers: str | None, kind: Kind) -> Kind:
    """Return the kind; JSON and boxes in the answers say more than the names of columns."""
    texts = [text for row in rows for text in texts_of(row.get(answers or ""))]
    if kind == Kind.pairs:
        return kind_of_answers(texts)
    filled = [text for text in texts if text.strip()]
    return Kind.extraction if filled and all(map(is_json, filled)) else kind


def _columns(names: Mapping[str, str]) -> dict[str, str]:
    return {f"columns.{ours}": theirs for ours, theirs in names.items()}


def _ask(where: str, names: Sequence[str], image: str | None, question: str | None) -> str:
    others = [name for name in names if name not in {image, question} and name.lower() not in _ABOUT]
    example = others[0] if others else "NAME"
    return (
        f"{where}: cannot tell which column is the answer; the columns are: {', '.join(names)}. Name it: "
        f"dataset.columns.answers={example} (with dataset.columns.question=NAME where a column asks), or "
        f"dataset.columns.captions={example}."
    )
