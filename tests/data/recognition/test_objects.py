import json
from pathlib import Path
from typing import Any

import pytest

from finetune.data.recognition import objects
from finetune.data.recognition.kinds import Kind

RECTANGLE = [[2, 1, 8, 1, 8, 5, 2, 5]]
TRIANGLE = [[2, 1, 8, 1, 5, 5]]
RUNS = {"size": [10, 10], "counts": [1, 99]}


@pytest.mark.parametrize(
    ("outlines", "kind"),
    [
        pytest.param([[], []], Kind.detection, id="none"),
        pytest.param([RECTANGLE, RECTANGLE], Kind.detection, id="corners of the box"),
        pytest.param([TRIANGLE, RUNS], Kind.segmentation, id="all"),
        pytest.param([TRIANGLE, []], Kind.detection, id="some"),
    ],
)
def test_outlines_of_coco_are_masks_if_all_objects_have_one(
    outlines: list[Any], kind: Kind, tmp_path: Path
) -> None:
    file = tmp_path / "a.json"
    annotations = [{"bbox": [2, 1, 6, 4], "segmentation": outline} for outline in outlines]
    file.write_text(json.dumps({"images": [{"file_name": "a"}], "annotations": annotations, "x": [1]}))
    assert objects.recognize_coco(str(file)) == kind


@pytest.mark.parametrize(
    ("yaml", "line", "kind"),
    [
        pytest.param("names: [a]", "0 0.5 0.5 0.1 0.1", Kind.detection, id="boxes"),
        pytest.param("names: [a]", "0 0.5 0.5 0.1 0.1 0.2 0.2", Kind.segmentation, id="polygons"),
        pytest.param("names: [a]\nkpt_shape: [1, 2]", "0 .5 .5 .1 .1 .2 .2", Kind.detection, id="pose"),
        pytest.param("names: [a]", "", Kind.detection, id="empty"),
    ],
)
def test_lines_of_yolo_are_boxes_or_polygons(yaml: str, line: str, kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text(yaml)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text(f"{line}\n")
    (tmp_path / "README.roboflow.txt").write_text("exported on 1 2 3 4 5 6\n")
    assert objects.recognize_yolo(str(tmp_path / "data.yaml")) == kind


@pytest.mark.parametrize(
    ("shapes", "kind"),
    [("<box a='1'>", Kind.detection), ("<polygon >", Kind.segmentation), ("<box ><mask >", Kind.detection)],
)
def test_shapes_of_cvat_are_boxes_or_masks(
    shapes: str, kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "_CHUNK", 5)  # a tag is cut by the end of a piece
    (tmp_path / "a.xml").write_text(f"<annotations><image>{shapes}</image></annotations>")
    assert objects.recognize_cvat(str(tmp_path / "a.xml")) == kind
