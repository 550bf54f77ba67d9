"""Every format with the function that finds its files: choice of `dataset` -> `find_splits`."""

from collections.abc import Callable, Mapping
from pathlib import Path

from finetune.data.layouts import coco, cvat, hub, image_folder, label_studio, labelme, texts, voc, yolo

FINDERS: Mapping[str, Callable[[Path], dict[str, str]]] = {
    "coco": coco.find_splits,
    "conversations": texts.find_conversations,
    "cvat": cvat.find_splits,
    "hub": hub.find_splits,
    "image_folder": image_folder.find_splits,
    "jsonl": texts.find_pairs,
    "label_studio": label_studio.find_splits,
    "labelme": labelme.find_splits,
    "table": texts.find_tables,
    "voc": voc.find_splits,
    "yolo": yolo.find_splits,
}
"""Of an export, exactly one of them finds something; of a folder with two formats, both do."""
