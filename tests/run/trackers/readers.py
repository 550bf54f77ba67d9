"""Reads back what trackers wrote, each by its own library's reader."""

import io
import json
import struct
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image


class Recorded(NamedTuple):
    """What a tracker recorded of a run."""

    settings: dict[str, Any]
    scalars: dict[str, list[tuple[int, float]]]
    """Name -> step and value; of W&B's summary without a step (-1)."""
    tables: dict[str, list[tuple[list[dict[str, Any]], list[Image.Image]]]]
    """Name -> the rows and the images of each table under it, in order."""


def read_tensorboard(folder: Path) -> Recorded:
    """Read the events in a run's folder by TensorBoard's accumulator."""
    from tensorboard.backend.event_processing.event_accumulator import (
        IMAGES,
        TENSORS,
        EventAccumulator,
    )

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={IMAGES: 0, TENSORS: 0})
    events.Reload()
    tags = events.Tags()
    scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags["scalars"]}
    texts = {
        tag.removesuffix("/text_summary"): [
            (event.step, event.tensor_proto.string_val[0].decode()) for event in events.Tensors(tag)
        ]
        for tag in tags["tensors"]
    }
    tables = {}
    for name in texts.keys() - {"settings"}:
        images = {tag: events.Images(tag) for tag in tags["images"] if tag.rpartition("/")[0] == name}
        tables[name] = [
            (
                _rows(text),
                [
                    _load(io.BytesIO(event.encoded_image_string))
                    for tag in sorted(images)
                    for event in images[tag]
                    if event.step == step
                ],
            )
            for step, text in texts[name]
        ]
    hparams = events.summary_metadata.get("_hparams_/session_start_info")
    settings: dict[str, Any] = {"text": texts["settings"][-1][1]}
    if hparams is not None:
        from tensorboard.plugins.hparams import plugin_data_pb2

        data = plugin_data_pb2.HParamsPluginData.FromString(hparams.plugin_data.content)
        settings |= {
            name: getattr(value, str(value.WhichOneof("kind")))
            for name, value in data.session_start_info.hparams.items()
        }
    return Recorded(settings, scalars, tables)


def _load(file: Path | io.BytesIO) -> Image.Image:
    with Image.open(file) as image:
        return image.convert("RGB")


def _rows(table: str) -> list[dict[str, Any]]:
    import html

    head, rule, *lines = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines())
    assert set(rule) == {"---"}
    return [dict(zip(head, map(html.unescape, line), strict=True)) for line in lines]


def read_records(folder: Path) -> list[Any]:
    """Read W&B's file: a leveldb log of its own protobuf messages."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("wandb/*run-*/run-*.wandb")
    content, found, position, parts = file.read_bytes(), [], 7, b""
    while position + 7 <= len(content):
        if (1 << 15) - position % (1 << 15) < 7:
            position += (1 << 15) - position % (1 << 15)
            continue
        length, kind = struct.unpack("<HB", content[position + 4 : position + 7])
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in {1, 4}:  # whole, or the last part
            found.append(Record.FromString(parts))
            parts = b""
    return found


def read_items(updates: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in updates}


def read_wandb(folder: Path) -> Recorded:
    """Read the one run in a run's folder."""
    records = read_records(folder)
    settings: dict[str, Any] = {}
    scalars: dict[str, list[tuple[int, float]]] = {}
    tables: dict[str, list[tuple[list[dict[str, Any]], list[Image.Image]]]] = {}
    for record in records:
        if record.HasField("artifact"):
            table, rows, images = _read_table(record.artifact)
            tables.setdefault(table, []).append((rows, images))
        settings |= read_items(record.run.config.update) | read_items(record.config.update)
        line = read_items(record.history.item)
        step = line.get("train/global_step", -1)
        for name, value in (line or read_items(record.summary.update)).items():
            if isinstance(value, int | float):
                scalars.setdefault(name, []).append((step if line else -1, value))
    return Recorded(settings, scalars, tables)


def _read_table(artifact: Any) -> tuple[str, list[dict[str, Any]], list[Image.Image]]:
    """Return the name of a table, its rows, and their images."""
    files = {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}
    (path,) = [path for path in files if path.endswith(".table.json")]
    table = json.loads(files[path].read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    images = [_load(files[row["image"]["path"]]) for row in rows]
    return path.removesuffix(".table.json"), rows, images


def read_trackio(project: str, name: str) -> Recorded:
    """Read the run of a name by trackio's own storage."""
    import trackio
    from trackio.utils import MEDIA_DIR

    (run,) = [run for run in trackio.Api().runs(project) if run.name == name]
    scalars: dict[str, list[tuple[int, float]]] = {}
    tables: dict[str, list[tuple[list[dict[str, Any]], list[Image.Image]]]] = {}
    for entry in trackio.SQLiteStorage.get_logs(project, name):
        step = entry.pop("step")
        for key, value in entry.items():
            if isinstance(value, int | float):
                scalars.setdefault(key, []).append((step, value))
            elif isinstance(value, dict):
                rows = value["_value"]
                images = [_load(MEDIA_DIR / row["image"]["file_path"]) for row in rows]
                tables.setdefault(key, []).append((rows, images))
    return Recorded(dict(run.config or {}), scalars, tables)
