"""The results of a run: prediction rows, drawn images and `metrics.json`, in the same order for all jobs.

`metrics.json` is written last, so that the files it names are complete.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from finetune.errors import UserError
from finetune.example import PredictionRow
from finetune.metrics.units import unit_of
from finetune.report.draw import draw_prediction, draw_row
from finetune.report.thumbnail import write_thumbnail
from finetune.run.files import read_json, write_folder, write_json, write_jsonl
from finetune.run.folder import RunFolder
from finetune.run.record import digest_answers, read_settings

if TYPE_CHECKING:
    from PIL.Image import Image


_THUMBNAIL = 420
"""Pixels of the long side: about as wide as a phone shows it, so that drawn labels can be read there."""

Scores = Mapping[str, Any]
"""Scores by field and group, or an entry of `metrics.json` with them: JSON values."""


class Predictions(NamedTuple):
    """The prediction rows of a split, and how to draw them."""

    rows: Sequence[PredictionRow]
    """In the order of the split."""
    load_image: Callable[[int], "Image"]
    """Returns the image of a row by its index."""
    most_pictures: int
    """Most rows with boxes or masks to draw."""


def read_metrics(folder: RunFolder) -> dict[str, Any]:
    """Return the content of `metrics.json`; empty if the file does not exist.

    Raises:
        UserError: it cannot be read, or no run wrote it.
    """
    file = folder.metrics
    if not file.is_file():
        return {}
    metrics = read_json(file)
    entries = metrics.get("evaluate", []) if isinstance(metrics, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(
            f"{file}: expected an object as a run writes it, with a list of evaluations. Move it away, or "
            "restore it."
        )
    return dict(metrics)


def write_training(
    folder: RunFolder,
    predictions: Predictions,
    metrics: Scores,
    history: Sequence[Scores],
    test: Sequence[PredictionRow] | None = None,
) -> dict[str, Any]:
    """Write the results of a training; evaluations that were added to `metrics.json` later are kept.

    Args:
        folder: folder of the run.
        predictions: predictions of the final model.
        metrics: `final`, `result`, `train` and `evaluations`; `test` with a test split.
        history: what was logged during the training, in the order of the steps.
        test: prediction rows of the test split.

    Returns:
        The content of `metrics.json`.
    """
    kept = {name: value for name, value in read_metrics(folder).items() if name == "evaluate"}
    write_jsonl(folder.history, history)
    answers = {"validation": digest_answers(predictions.rows)}
    if test is not None:
        write_jsonl(folder.predictions / "test.jsonl", test)
        answers["test"] = digest_answers(test)
    metrics = {**metrics, **kept, "answers": answers, **_read_settings(folder)}
    return _write(folder, folder.predictions / "validation.jsonl", predictions, metrics)


def add_evaluation(folder: RunFolder, predictions: Predictions, entry: Scores, name: str) -> Path:
    """Add an evaluation to `metrics.json`, and write its rows; the file of the previous one gets a number.

    Args:
        folder: folder of the run.
        predictions: predictions of the evaluated model.
        entry: command, dataset and scores.
        name: of the file, without `.jsonl`.

    Returns:
        The file of the rows.
    """
    # Never in place of the training's own score: that one must stay as its log reports it.
    metrics = read_metrics(folder)
    entries: list[Scores] = metrics.get("evaluate", [])
    file = folder.predictions / f"{name}.jsonl"
    rows = str(file.relative_to(folder.root))
    same = [number for number, each in enumerate(entries) if each.get("rows") == rows]
    if same and file.is_file():
        numbered = file.with_name(f"{name}.{len(entries)}.jsonl")
        file.rename(numbered)
        for old, new in (
            (folder.thumbnails / file.stem, folder.thumbnails / numbered.stem),
            (file.with_suffix(".blank.jsonl"), numbered.with_suffix(".blank.jsonl")),
        ):
            if old.exists():
                old.rename(new)
        entries[same[-1]] = {**entries[same[-1]], "rows": str(numbered.relative_to(folder.root))}
    answers = digest_answers(predictions.rows)
    entries = [*entries, {**entry, "answers": answers, "rows": str(file.relative_to(folder.root))}]
    settings = {} if "final" in metrics else _read_settings(folder)
    _write(folder, file, predictions, {**metrics, "evaluate": entries, **settings})
    return file


def _read_settings(folder: RunFolder) -> dict[str, Any]:
    return {"settings": read_settings(folder.config)} if folder.config.is_file() else {}


def _write(
    folder: RunFolder, file: Path, predictions: Predictions, metrics: dict[str, Any]
) -> dict[str, Any]:
    write_jsonl(file, predictions.rows)
    write_pictures(folder.pictures, predictions)
    write_json(folder.metrics, metrics)
    return metrics


def write_pictures(folder: Path, predictions: Predictions) -> int:
    """Draw the first predictions with boxes or masks, and the true objects; all of them or none.

    Args:
        folder: for `<number>.png`; replaced.
        predictions: the rows and their images.

    Returns:
        The number of drawn predictions; if it is 0, no folder is created.
    """
    rows = predictions.rows
    chosen = [index for index, row in enumerate(rows) if "prediction_objects" in row]
    chosen = chosen[: predictions.most_pictures]

    def draw(target: Path) -> None:
        for index in chosen:
            drawing = draw_prediction(predictions.load_image(index), rows[index])
            drawing.save(target / f"{index:03d}.png")

    if chosen:
        write_folder(folder, draw)
    return len(chosen)


def add_evidence(folder: RunFolder, file: Path, evidence: Scores, blank: Sequence[PredictionRow]) -> None:
    """Add what stands next to the scores of the last training or evaluation to `metrics.json`.

    Args:
        folder: folder of the run.
        file: the rows that were scored.
        evidence: such as `intervals`.
        blank: answers without images; written next to the rows if there are any.
    """
    if blank:
        write_jsonl(file.with_name(f"{file.stem}.blank.jsonl"), blank)
    metrics = read_metrics(folder)
    entries: list[Scores] = metrics.get("evaluate", [])
    if entries and entries[-1].get("rows") == str(file.relative_to(folder.root)):
        metrics["evaluate"] = [*entries[:-1], {**entries[-1], **evidence}]
    elif file.stem == "test":
        metrics["test_evidence"] = evidence
    else:
        metrics |= evidence
    write_json(folder.metrics, metrics)


def write_thumbnails(
    folder: Path,
    rows: Sequence[PredictionRow],
    chosen: Iterable[int],
    load_image: Callable[[int], "Image"],
) -> None:
    """Draw the predictions that the report shows, small; all of them or none.

    A report that is made again later finds them here, wherever the images themselves are by then.

    Args:
        folder: for `<index>.png` or `.jpeg`; replaced.
        rows: prediction rows.
        chosen: indices of the rows to draw.
        load_image: returns the image of a row by its index.
    """

    def draw(target: Path) -> None:
        for index in sorted(set(chosen)):
            drawing = draw_row(load_image(index), rows[index], _THUMBNAIL // 2, _THUMBNAIL)
            write_thumbnail(drawing, target / f"{index:06d}", _THUMBNAIL)

    write_folder(folder, draw)


def format_scores(scores: Scores) -> str:
    """Format scores as one line; groups are in metrics.json."""
    values = {name: value for name, value in scores.items() if not isinstance(value, dict)}
    return "  ".join(f"{name} {_format_number(value)}" for name, value in values.items())


def format_score_table(title: str, scores: Scores, intervals: Mapping[str, Sequence[float]]) -> str:
    """Lay scores out as text, a line each: value, unit and 95 % interval.

    Args:
        title: what was scored.
        scores: of an evaluation.
        intervals: field -> its lowest and highest value.
    """
    rows = [("score", "value", "unit", "95 % interval" if intervals else "")]
    for field, value in scores.items():
        if isinstance(value, dict) or field == "n":
            continue
        low_high = intervals.get(field)
        interval = " to ".join(map(_format_number, low_high[:2])) if low_high else ""
        unit = unit_of(field)
        # An AP or AR of -1 says that the set has no object of that size.
        number = "-" if value == -1 and unit == "0 to 1" else _format_number(value)
        rows.append((field, number, unit, interval))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        f"  {row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:<{widths[2]}}  {row[3]}".rstrip()
        for row in rows
    ]
    count = scores["n"]
    return "\n".join([f"{title}, {count} example{'s' if count != 1 else ''}", *lines])


def _format_number(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return "0" if abs(value) < 5e-5 else f"{value:.4g}"
