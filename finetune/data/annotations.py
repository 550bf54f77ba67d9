"""The sources of labelled boxes and masks in files, with their options: exports of annotation tools."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from finetune.data.options import BoxFileOptions, Source, texts_in


@dataclass
class ImageFolder(BoxFileOptions):
    """Images with a metadata file (texts, captions or `objects`), or with a folder for each class."""

    loader = "finetune.data.formats.image_folder:load_image_folder"

    names: list[str] | None = None
    """The classes in order, if `objects.categories` are numbers from 0."""


@dataclass
class Coco(BoxFileOptions):
    """COCO's JSON with boxes, polygons or run lengths."""

    loader = "finetune.data.formats.coco:load_coco"


@dataclass
class Voc(BoxFileOptions):
    """Pascal VOC: `Annotations/*.xml` and `JPEGImages/`, or XML files next to the images."""

    loader = "finetune.data.formats.voc:load_voc"

    one_based: bool = False
    """The first pixel is 1 and the last belongs to the box, as in VOC's own releases; most tools count
    from 0."""


@dataclass
class Yolo(BoxFileOptions):
    """YOLO's data.yaml with boxes or polygons; or a folder or list of images with a list of classes."""

    loader = "finetune.data.formats.yolo:load_yolo"

    validation: str | None = None
    """The data.yaml whose `val` to evaluate on. `null`: that of `train`, unless `validation_fraction`."""
    image_dir: str | None = None
    """Folder that replaces the file's `path`, such as one of another machine."""

    def for_validation(self) -> "Source":
        """Return the source without `train`, or unchanged if it holds out a share."""
        if self.validation_fraction is not None:
            return super().for_validation()
        return replace(self, train=None, validation=self.validation or self.train)

    def _names_validation(self) -> bool:
        return True


@dataclass
class Cvat(BoxFileOptions):
    """CVAT's own XML (CVAT for images): boxes, polygons and masks."""

    loader = "finetune.data.formats.cvat:load_cvat"


@dataclass
class Labelme(BoxFileOptions):
    """labelme: a folder with one JSON file per image, with boxes, polygons and masks."""

    loader = "finetune.data.formats.labelme:load_labelme"


@dataclass
class LabelStudio(BoxFileOptions):
    """Label Studio's JSON or JSON-MIN: boxes, polygons and brushes; or choices and texts."""

    loader = "finetune.data.formats.label_studio:load_label_studio"

    columns: dict[str, Any] = field(default_factory=dict)
    """Column name here -> tag or task data of the project, if they differ: `{captions: caption}`."""

    def problems(self, prefix: str) -> Iterator[str]:
        """Also yield invalid names of columns."""
        yield from super().problems(prefix)
        yield from texts_in(self.columns, f"{prefix}columns")
