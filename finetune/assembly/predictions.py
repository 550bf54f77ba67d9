"""Predictions to score, as people have them, as prediction rows.

They are JSON lines or a JSON list of rows, or COCO's results; the ground truth may be in a file of its own:
COCO's, or rows with the same ids.
"""

import shutil
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from finetune.codecs.coco_mask import compress_rle, encode_polygons, find_box
from finetune.data.layouts.peek import peek_json
from finetune.data.objects import name_class
from finetune.data.reading.faults import Faults
from finetune.data.reading.json import index_items, iterate_items, iterate_records, read_record
from finetune.data.reading.record import Record
from finetune.errors import UserError
from finetune.example import PredictionRow, Rle, SceneObject
from finetune.metrics.fields import list_keys, name_row
from finetune.metrics.jsonl import JsonlRows, Row
from finetune.run.files import write_jsonl


class PredictionFiles(ExitStack):
    """Opens what is to be scored, and closes it when the block ends.

    Files that are not JSON lines are rewritten as such in a temporary folder, one row at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(self.enter_context(TemporaryDirectory()))

    def open(self, source: str, ground_truth: str | None) -> JsonlRows:
        """Open predictions, joined with their ground truth.

        Args:
            source: a file, or `-` for standard input.
            ground_truth: a file; None if the rows have it themselves.

        Raises:
            UserError: a file cannot be read, or the two do not fit.
        """
        file, name = Path(source), source
        if source == "-":
            file, name = self.folder / "stdin.jsonl", "standard input"
            with file.open("wb") as spooled:
                shutil.copyfileobj(sys.stdin.buffer, spooled)
        if ground_truth is None:
            return self._open_rows(file, name)
        truth = Path(ground_truth)
        if _is_coco(truth):
            results = (result for _, result in iterate_records(Faults(skip=False), file))
            return self.spool(join_coco(results, truth), ground_truth, unit="image")
        rows = join_rows(self._open_rows(file, name), self._open_rows(truth, ground_truth))
        return self.spool(rows, ground_truth, unit="row")

    def spool(self, rows: Iterable[Mapping[str, Any]], name: str, unit: str = "item") -> JsonlRows:
        """Write rows to a file, so that memory does not grow with them, and open it.

        Args:
            rows: prediction rows.
            name: what messages call their source.
            unit: what messages call a row's place in it.
        """
        file = self.folder / f"{len(list(self.folder.iterdir()))}.jsonl"
        write_jsonl(file, rows)
        return self.enter_context(closing(JsonlRows(file, name, unit)))

    def _open_rows(self, file: Path, name: str) -> JsonlRows:
        if file.is_file() and _first_character(file) == "[":
            return self.spool((row for _, row in iterate_records(Faults(skip=False), file)), name)
        return self.enter_context(closing(JsonlRows(file, name)))


def _first_character(file: Path) -> str:
    try:
        with file.open(encoding="utf-8-sig", errors="replace") as stream:
            return next(
                (text.strip()[0] for text in iter(lambda: stream.read(4096), "") if text.strip()), ""
            )
    except OSError as error:
        raise UserError(f"Cannot read {file}: {error.strerror}.") from error


def _is_coco(file: Path) -> bool:
    """Return whether a file is COCO's ground truth, from its beginning: `images` may fill all of that."""
    start = peek_json(file)
    if start is None or start.kind == "list":
        return False
    return "annotations" in start.first or (start.kind == "object" and "images" in start.first)


def join_rows(predictions: JsonlRows, truth: JsonlRows) -> Iterator[Row]:
    """Yield each row of the ground truth with the prediction of the same id; null if there is none.

    Raises:
        UserError: a row has no id, an id is repeated, or a prediction has no ground truth.
    """
    indices: dict[str, int] = {}
    for index, row in enumerate(predictions):
        row_id = _read_id(row)
        if row_id in indices:
            raise UserError(f"{name_row(row)}: its id is repeated; it joins predictions and ground truth.")
        indices[row_id] = index
    for row in truth:
        found = indices.pop(_read_id(row), None)
        yield {**row, **({"prediction": None} if found is None else predictions[found])}
    if indices:
        first = predictions[min(indices.values())]
        raise UserError(
            f"{name_row(first)}: {truth.name} has no row of that id ({len(indices)} such predictions). "
            "Is it the ground truth of another split?"
        )


def _read_id(row: Row) -> str:
    row_id = row.get("id")
    if not isinstance(row_id, int | str) or isinstance(row_id, bool):
        raise UserError(
            f"{name_row(row)}: expected an `id`, which joins predictions and ground truth; the row has: "
            f"{list_keys(row)}."
        )
    return str(row_id)


def join_coco(results: Iterable[Record], ground_truth: Path) -> Iterator[PredictionRow]:
    """Yield a row for each image of COCO's ground truth, with the results of that image.

    Args:
        results: objects with `image_id`, `category_id`, `bbox` or `segmentation`, and `score`.
        ground_truth: a file with `images`, `annotations` and `categories`; it must fit in memory.

    Raises:
        UserError: names the result or the annotation that cannot be used.
    """
    strict, content = Faults(skip=False), read_record(ground_truth)
    images = index_items(strict, content, "images")
    names = {
        key: category.text("name") for key, category in index_items(strict, content, "categories").items()
    }
    sizes = {key: (image.integer("height"), image.integer("width")) for key, image in images.items()}
    sides: dict[str, dict[str, list[SceneObject]]] = {key: defaultdict(list) for key in images}
    for side, items in (
        ("objects", iterate_items(strict, content, "annotations")),
        ("prediction_objects", results),
    ):
        for item in items:
            key = item.identifier("image_id")
            if key not in images:
                raise UserError(f"{item.where}: there is no image {key} in {ground_truth}.")
            sides[key][side].append(_read_object(item, names, sizes[key], side))
    for key, image in images.items():
        height, width = sizes[key]
        yield {
            "id": key,
            "image": image.optional_text("file_name") or key,
            "width": width,
            "height": height,
            "objects": sides[key]["objects"],
            "prediction_objects": sides[key]["prediction_objects"],
        }


def _read_object(item: Record, names: Mapping[str, str], size: tuple[int, int], side: str) -> SceneObject:
    """Return an annotation or a result as an object of a row.

    Raises:
        UserError: it has neither box nor mask, or its category is unknown.
    """
    label = name_class(item.identifier("category_id"), names, item.where, "category")
    found: SceneObject = {"label": label}
    shape = cast("Rle | list[list[float]] | None", item.get("segmentation"))  # checked by what reads it
    try:
        mask = (
            encode_polygons(shape, size) if isinstance(shape, list) and shape else cast("Rle | None", shape)
        )
        if mask:
            found["mask_rle"] = mask
        # Results of segmentation often have no box.
        has_box = "bbox" in item or not mask
        x, y, width, height = item.numbers("bbox") if has_box else find_box(compress_rle(mask))
        found["box_xyxy"] = [x, y, x + width, y + height]
    except (TypeError, ValueError) as error:
        raise UserError(f"{item.where}: {error}") from error
    if side == "prediction_objects":
        found["score"] = item.number("score")
    else:
        found["iscrowd"] = 1 if item.get("iscrowd") else 0
        found["area"] = item.number("area") if item.get("area") is not None else None
    return found
