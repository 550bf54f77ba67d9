"""The columns of a dataset that `datasets` reads: a folder of parquet, one saved to disk, or the Hub's."""

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finetune.data.formats.turns import ANSWERS
from finetune.data.layouts.splits import list_folder, name_split
from finetune.data.recognition.columns import recognize_columns
from finetune.data.recognition.kinds import Kind, Purpose, Recognition
from finetune.data.recognition.texts import kind_of_answers, texts_of
from finetune.errors import UserError
from finetune.hub import explain_dataset

_BOXES = ("bbox", "boxes", "bboxes")
_LABELS = ("category", "categories", "label", "labels", "category_id", "class", "names")
_TURNS = ("texts", "messages", "conversations")
"""Columns of turns; see `finetune.data.hub_turns`."""
_MOST_ROWS = 64
_IMAGE = {"_type": "Image"}


def recognize_folder(folder: Path, splits: Mapping[str, str], given: Mapping[str, str]) -> Recognition:
    """Return what a folder of parquet files, or one written by `save_to_disk`, is for.

    Raises:
        UserError: its columns do not say it.
    """
    features, rows = _read_folder(folder, next(iter(splits.values())))
    purpose = _recognize(features, rows, str(folder), given)
    return Recognition("hub", splits, purpose._replace(options={"path": str(folder), **purpose.options}))


def recognize_hub(name: str, given: Mapping[str, str]) -> Recognition:
    """Return what a dataset on the Hub is for; only its description and first rows are downloaded.

    Raises:
        UserError: there is no such dataset, or no network; or it has several configurations.
    """
    import datasets

    try:
        configurations = datasets.get_dataset_config_names(name)
        if len(configurations) > 1:
            raise UserError(
                f"data={name} has several configurations; name one with dataset=hub dataset.path={name} "
                f"dataset.name=NAME and a recipe: {', '.join(configurations)}."
            )
        listed = datasets.get_dataset_split_names(name, configurations[0])
        stream = datasets.load_dataset(name, configurations[0], split=listed[0], streaming=True)
        features, rows = stream.features.to_dict(), list(stream.take(3))
    except UserError:
        raise
    except Exception as error:  # foreign files and the network raise anything
        reason = explain_dataset(error, name)
        text = " ".join(str(error).split())[:300]
        raise UserError(
            f"data={name}: no such file or folder here. "
            f"{reason or f'On the Hub it cannot be read as a dataset ({text}).'}"
        ) from error
    splits = {name_split(split) or split: split for split in reversed(listed)}
    purpose = _recognize(features, rows, name, given)
    known = {split: splits[split] for split in ("train", "validation", "test") if split in splits}
    return Recognition(
        "hub", known or {"train": listed[0]}, purpose._replace(options={"path": name, **purpose.options})
    )


def _recognize(
    features: Mapping[str, Any], rows: list[dict[str, Any]], where: str, given: Mapping[str, str]
) -> Purpose:
    images = [name for name, kind in features.items() if _is_image(kind)]
    turns = next((name for name in _TURNS if images and _fields(features.get(name))), None)
    if turns is not None:
        texts = [text for row in rows for turn in row.get(turns) or [] for text in _answers_of(turn)]
        return Purpose(kind_of_answers(texts))
    for column, kind in features.items():
        inside = _fields(kind)
        boxes = next((name for name in _BOXES if name in inside), None)
        if boxes is not None:
            labels = next((name for name in _LABELS if name in inside), None)
            places = {"objects.boxes": f"{column}.{boxes}"}
            places |= {"objects.labels": f"{column}.{labels}"} if labels else {}
            named = {"columns.image": images[0]} if images and images[0] != "image" else {}
            return Purpose(Kind.detection, {**named, **places})
    image = images[0] if images else None
    return recognize_columns(list(features), rows, where, given, image, keeps_named=True)


def _answers_of(turn: object) -> Iterator[str]:
    """Yield the answer of a pair of texts, or the text of a turn that answers."""
    if isinstance(turn, Mapping) and turn.get("role", turn.get("from", "assistant")) in ANSWERS:
        text = turn.get("assistant", turn.get("content", turn.get("value")))
        parts = text if isinstance(text, list) else [{"text": text}]
        for part in parts:
            yield from texts_of(part.get("text") if isinstance(part, Mapping) else part)


def _is_image(kind: Any) -> bool:
    if isinstance(kind, Mapping) and kind.get("_type") in {"List", "Sequence"}:
        kind = kind.get("feature")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    return isinstance(kind, Mapping) and kind.get("_type") == "Image"


def _fields(kind: Any) -> Mapping[str, Any]:
    """Return the fields of a struct, or of a list of structs."""
    if isinstance(kind, list):
        kind = kind[0] if kind else {}
    if isinstance(kind, Mapping) and "_type" in kind:
        kind = kind.get("feature", {}) if kind["_type"] in {"List", "Sequence", "LargeList"} else {}
    return kind if isinstance(kind, Mapping) else {}


def _read_folder(folder: Path, split: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the features and first rows of a folder."""
    for info in (folder / split / "dataset_info.json", folder / "dataset_info.json"):
        if info.is_file():
            return _read_info(info), []
    files = [file for place in (folder, folder / "data") for file in list_folder(place)]
    parquet = [file for file in files if file.suffix == ".parquet"]
    file = next((file for file in parquet if name_split(file.name) == name_split(split)), parquet[0])
    try:
        schema = pq.read_schema(file)
        described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = described.get("info", {}).get("features") or dict(_infer(schema))
        texts = [name for name, kind in features.items() if not _is_image(kind)]
        return features, list(islice(_iterate(file, texts), _MOST_ROWS))
    except (pa.ArrowException, OSError, ValueError, AttributeError) as error:
        raise UserError(f"{file}: not a parquet file that can be read ({error}); copy it again.") from error


def _read_info(file: Path) -> dict[str, Any]:
    try:
        features = json.loads(file.read_text(encoding="utf-8"))["features"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: expected the features of a dataset ({error}).") from error
    return features if isinstance(features, dict) else {}


def _infer(schema: pa.Schema) -> Iterator[tuple[str, Any]]:
    """Yield each column's feature as far as it matters here."""
    for field in schema:
        kind = field.type
        listed = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        inner = kind.value_type if listed else kind
        names = (
            [inner.field(index).name for index in range(inner.num_fields)]
            if pa.types.is_struct(inner)
            else []
        )
        if pa.types.is_binary(inner) or {"bytes", "path"} <= set(names):
            yield field.name, _IMAGE
        else:
            yield field.name, {name: {} for name in names}


def _iterate(file: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    for batch in pq.ParquetFile(file).iter_batches(batch_size=_MOST_ROWS, columns=columns):
        yield from batch.to_pylist()
