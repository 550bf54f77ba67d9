"""Every export is found by one format, and read with the boxes, masks and texts that it was made with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.codecs.rle import decode_rle
from finetune.data.annotations import Yolo
from finetune.data.layouts.finders import FINDERS
from finetune.data.rows import Splits
from finetune.errors import UserError
from tests.data.formats import exports
from tests.data.formats.exports import ALL, EXPORTS, SCENES, WIDTH, Export, Scene

BOXES = [name for name, export in EXPORTS.items() if export.kind in {"boxes", "masks"}]


def read_export(name: str, folder: Path, load: Callable[..., Splits], **options: Any) -> Splits:
    """Read an export by its folder; the validation split too, where it has one."""
    export = EXPORTS[name]
    export.make(folder)
    named = {} if "validation" in export.splits else {"validation_fraction": 0.3, "validation": None}
    return load(export.dataset, folder, **{**named, **options})


def rows_by_image(splits: Splits, export: Export) -> dict[str, Any]:
    """Return the rows of both splits, or of the training split, by the image's name."""
    parts = [splits.train] if "validation" in export.splits else [splits.train, splits.validation]
    return {Path(row.get("image") or row["images"][0]).name: row for part in parts for row in part}


def scenes_of(export: Export) -> tuple[Scene, ...]:
    return SCENES["train"] if "validation" in export.splits else ALL


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_has_one_format_and_its_splits(name: str, tmp_path: Path) -> None:
    export = EXPORTS[name]
    export.make(tmp_path / "export")
    found = {choice: splits for choice, find in FINDERS.items() if (splits := find(tmp_path / "export"))}
    assert {choice: set(splits) for choice, splits in found.items()} == {export.dataset: set(export.splits)}


@pytest.mark.parametrize("name", BOXES)
def test_boxes_and_masks_are_where_they_were_drawn(
    name: str, tmp_path: Path, load: Callable[..., Splits]
) -> None:
    export = EXPORTS[name]
    rows = rows_by_image(read_export(name, tmp_path, load), export)
    rows = {image.removeprefix("1a2b3c4d-"): row for image, row in rows.items()}
    assert rows.keys() == {scene.name for scene in scenes_of(export)}
    for scene in scenes_of(export):
        objects = rows[scene.name]["objects"]
        assert [item["label"] for item in objects] == [label for label, *_ in scene.boxes]
        for item, (_, *corners) in zip(objects, scene.boxes, strict=True):
            assert item["box_xyxy"] == pytest.approx(corners, abs=1e-6)
            assert (item["mask_rle"] is not None) == (export.kind == "masks")
            if item["mask_rle"]:
                mask = decode_rle(item["mask_rle"], (exports.HEIGHT, exports.WIDTH))
                x_min, y_min, x_max, y_max = corners
                assert mask[y_min:y_max, x_min:x_max].all()
                assert mask.sum() == (x_max - x_min) * (y_max - y_min)


QUESTION = exports.QUESTION


def ask(scene: Scene) -> list[tuple[str, str]]:
    return [(QUESTION, exports.answer(scene))]


PAIRS: dict[str, Callable[[Scene], list[tuple[str, str]]]] = {
    "roboflow_paligemma": lambda scene: [("detect cup ; dog", exports.loc_text(scene))],
    "llava": lambda scene: [(QUESTION, exports.answer(scene)), ("Describe it.", exports.caption(scene))],
    "swift_grounding": lambda scene: [("detect cup ; dog", exports.loc_text(scene) or "nothing")],
}
"""Export -> the questions and answers about a scene, if they are not one question with its answer."""


@pytest.mark.parametrize("name", [name for name, export in EXPORTS.items() if export.kind == "pairs"])
def test_questions_and_answers_belong_to_their_images(
    name: str, tmp_path: Path, load: Callable[..., Splits]
) -> None:
    export = EXPORTS[name]
    splits = read_export(name, tmp_path, load)
    parts = [splits.train] if "validation" in export.splits else [splits.train, splits.validation]
    read = [
        (Path(row.get("image") or row["images"][0]).name, row["prefix"], *row["suffixes"])
        for part in parts
        for row in part
    ]
    expect = PAIRS.get(name, ask)
    expected = [(scene.name, *pair) for scene in scenes_of(export) for pair in expect(scene)]
    assert sorted(read) == sorted(expected)


def test_rows_without_an_image_are_left_out_of_a_mixed_llava_file(
    tmp_path: Path,
    load: Callable[..., Splits],
    reported: Callable[[], str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "finetune")
    skipped = read_export("llava", tmp_path, load).skipped
    assert [fault.partition(": ")[2] for fault in skipped] == ["it has no image (dataset.skip_text_only)."]
    assert "were numbered (`id#2`): 3; " in reported()


@pytest.mark.parametrize(
    ("name", "options", "columns"),
    [
        pytest.param(
            "label_studio_captions",
            {"columns": {"captions": "caption"}},
            lambda scene: {"captions": [exports.caption(scene)]},
            id="captions",
        ),
        pytest.param(
            "label_studio_choices",
            {"columns": {"answers": "answer"}},
            lambda scene: {"question": QUESTION, "answers": [exports.answer(scene)]},
            id="choices",
        ),
        pytest.param(
            "json_list",
            {"columns": {"answers": "answer"}},
            lambda scene: {"question": QUESTION, "answers": [str(len(scene.boxes))]},
            id="JSON list",
        ),
        pytest.param(
            "excel_csv",
            {"columns": {"image": "Image", "question": "Question", "answers": "Answer"}},
            lambda scene: {"question": QUESTION, "answers": [exports.answer(scene)]},
            id="CSV",
        ),
    ],
)
def test_columns_have_the_texts_of_their_images(
    name: str,
    options: dict[str, Any],
    columns: Callable[[Scene], dict[str, Any]],
    tmp_path: Path,
    load: Callable[..., Splits],
) -> None:
    rows = rows_by_image(read_export(name, tmp_path, load, **options), EXPORTS[name])
    assert rows.keys() == {scene.name for scene in ALL}
    for scene in ALL:
        expected = columns(scene)
        assert {column: rows[scene.name][column] for column in expected} == expected


def test_pairs_take_other_names_and_several_files(tmp_path: Path, load: Callable[..., Splits]) -> None:
    exports.json_list(tmp_path)
    (tmp_path / "data.json").rename(tmp_path / "more.json")
    exports.json_list(tmp_path)
    columns = {"prefix": "question", "suffix": "answer"}
    for files in (tmp_path / "*.json", f"[{tmp_path}/data.json, {tmp_path}/more.json]"):
        rows = load("jsonl", files, validation=str(tmp_path / "more.json"), columns=columns).train
        assert len(rows) == 2 * len(ALL)
        assert (rows[1]["id"], rows[1]["suffixes"]) == ("data/2", ["2"])
        assert rows[len(ALL)]["id"] == "more/1"


def test_an_export_without_a_validation_split_says_which_it_has(
    tmp_path: Path, load: Callable[..., Splits]
) -> None:
    exports.roboflow_coco(tmp_path)
    (tmp_path / "valid/_annotations.coco.json").unlink()
    with pytest.raises(UserError, match=r"has no validation split; it has: .*test .*validation_fraction="):
        load("coco", tmp_path)


def test_two_files_of_one_split_are_named(tmp_path: Path, load: Callable[..., Splits]) -> None:
    exports.label_studio_coco(tmp_path)
    (tmp_path / "second.json").write_text((tmp_path / "result.json").read_text())
    with pytest.raises(UserError, match=r"both result.json and second.json may be its train data"):
        load("coco", tmp_path)


def test_the_test_split_of_a_yolo_export_is_read_by_its_folder(
    tmp_path: Path,
) -> None:
    exports.roboflow_yolo(tmp_path)
    (row,) = Yolo(validation=FINDERS["yolo"](tmp_path)["test"]).load().validation
    assert [item["label"] for item in row["objects"]] == ["cup", "dog"]


@pytest.mark.parametrize("name", ["roboflow_coco", "roboflow_voc", "cvat_images", "labelme"])
def test_a_box_over_the_edge_is_clipped_and_counted(
    name: str,
    tmp_path: Path,
    load: Callable[..., Splits],
    reported: Callable[[], str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level("INFO", "finetune")
    over = Scene("a.jpg", (("cup", WIDTH - 20, 10, WIDTH + 20, 30),))
    monkeypatch.setattr(exports, "ALL", (over, *ALL[1:]))
    monkeypatch.setitem(exports.SCENES, "train", (over, *SCENES["train"][1:]))
    splits = read_export(name, tmp_path, load)
    row = rows_by_image(splits, EXPORTS[name])["a.jpg"]
    assert row["objects"][0]["box_xyxy"] == [WIDTH - 20, 10, WIDTH, 30]
    assert "were clipped (dataset.clip): 1; the first: " in reported()
    with pytest.raises(UserError, match="to lie inside the picture"):
        read_export(name, tmp_path, load, clip=False)


def test_the_name_of_a_folder_is_the_answer(tmp_path: Path, load: Callable[..., Splits]) -> None:
    rows = read_export("class_folders", tmp_path, load).train
    assert sorted(zip(rows["id"], rows["suffixes"], strict=True)) == sorted(
        (f"{name}/{scene.name}", [name]) for name in ("again", "with things") for scene in SCENES["train"]
    )


BROKEN = {
    "empty.json": b"",
    "half.json": b'{"images": [{"file_name": "a',
    "list.json": b"[1, 2, 3]",
    "empty_list.json": b"[]",
    "text.json": b'"text"',
    "deep.json": b"[" * 100_000,
    "deep.yaml": b"[" * 10_000,
    "bytes.json": bytes(range(256)),
    "wide.csv": "image;text\n".encode("utf-16"),
    "bad.csv": b'image,"q',
    "bad.xml": b"<annotations><image",
    "bad.yaml": b"names: [a, b\ntrain: {",
    "bad.parquet": b"PAR1",
    "data.yaml": b"names: 7\ntrain: [1]\nval: {a: b}\ntest: 3",
    "metadata.jsonl": b"\xff\xfe",
    "dataset_dict.json": b"[]",
    "classes.txt": b"\xff",
}


@pytest.mark.parametrize("choice", FINDERS)
def test_broken_files_are_no_export_and_no_crash(choice: str, tmp_path: Path) -> None:
    find = FINDERS[choice]
    for name, content in BROKEN.items():
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        (folder / name).write_bytes(content)
        (folder / "folder.json").mkdir()
        (folder / "loop.json").symlink_to("loop.json")
        for place in (folder, folder / name, folder / "nothing"):
            splits = find(place)
            assert all(isinstance(value, str) for value in splits.values()), place
    assert find(tmp_path) == {} or choice == "hub"
