"""A loaded result answers images: from a folder, from the Hub, and as detections."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import HfApi
from PIL import ExifTags, Image, ImageDraw

import finetune
from finetune.cli import main
from finetune.errors import UserError
from tests.conftest import noise_image
from tests.hub.client import ConnectedHub
from tests.hub.server import STRANGER

FEW = (
    "trainer.max_steps=2", "trainer.global_batch_size=4", "trainer.dataloader_num_workers=0",
    "evaluation.limit=2", "evaluation.blank_images=never", "evaluation.pictures=0",
    "evaluation.strategy=no", "dataset.train=64", "dataset.validation=4", "peft=lora",
    "evaluation.metric_for_best_model=null",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that finds digits."""
    folder = tmp_path_factory.mktemp("predictor")
    assert main(["recipe=quickstart_detect", *FEW, f"runs_dir={folder}", "run_name=boxes"]) == 0
    return folder / "boxes"


@pytest.fixture
def pushed(trained: Path, tmp_path: Path) -> Path:
    """What is pushed of the run: the adapter's files with its configuration and scores next to them."""
    folder = tmp_path / "pushed"
    shutil.copytree(trained / "adapter", folder)
    for name in ("config.yaml", "metrics.json", "environment.json"):
        shutil.copy(trained / name, folder)
    return folder


IMAGES = [noise_image(number, 60, 40) for number in range(3)]


def test_a_run_is_loaded_by_its_folder_and_answers_images_in_batches(trained: Path) -> None:
    model = finetune.load(trained)
    model.batch_size = 2
    rows = model(IMAGES)
    assert [row["image"] for row in rows] == ["0", "1", "2"]
    assert rows[1]["prefix"] == "detect all classes"
    assert rows == model.ask_all(IMAGES)
    assert model(IMAGES[1])[0]["prediction"] == rows[1]["prediction"]
    assert model.classes == list("0123456789")
    assert model(IMAGES[:1], "detect 7")[0]["prefix"] == "detect 7"
    assert model([]) == []


def test_an_image_that_is_given_twice_is_answered_twice(trained: Path, tmp_path: Path) -> None:
    IMAGES[0].save(tmp_path / "a.png")
    rows = finetune.load(str(trained))([str(tmp_path / "a.png")] * 2)
    assert len(rows) == 2
    assert rows[0] == rows[1]


def test_a_prompt_with_an_open_image_of_its_own_is_not_about_another(trained: Path) -> None:
    model = finetune.load(trained)
    rows = model.ask_all(IMAGES[:1], prompts=[{"image": IMAGES[1]}, {"prefix": "detect 7"}, {}])
    alone = [(IMAGES[1], None), (IMAGES[0], "detect 7"), (IMAGES[0], None)]
    answers = [model.ask(image, prefix) for image, prefix in alone]
    assert [row["image"] for row in rows] == ["1", "0", "0"]
    assert [{**row, "image": "0"} for row in rows] == answers
    assert answers[0]["prediction"] != answers[2]["prediction"]


def test_another_name_of_the_rows_is_a_mistake(trained: Path) -> None:
    model = finetune.load(str(trained))
    with pytest.raises(UserError, match="as_: expected rows or supervision, but got 'boxes'"):
        model(IMAGES, as_="boxes")  # type: ignore[call-overload]


def test_detections_have_the_boxes_and_the_runs_classes(trained: Path) -> None:
    model = finetune.load(str(trained))
    row = {
        "width": 60, "height": 40, "prediction": "<loc0000>...",
        "prediction_objects": [
            {"label": "7", "box_xyxy": [1.0, 2.0, 30.0, 40.0], "score": 0.5},
            {"label": "none", "box_xyxy": [0.0, 0.0, 60.0, 10.0], "score": 0.25},
        ],
    }  # fmt: skip
    found = model.to_supervision(row)
    assert found.xyxy.tolist() == [[1, 2, 30, 40], [0, 0, 60, 10]]
    assert found.class_id.tolist() == [7, 10]
    assert found.confidence.tolist() == [0.5, 0.25]
    assert found.data["class_name"].tolist() == ["7", "none"]
    assert model.classes[10:] == ["none"]
    answers = model(IMAGES, as_="supervision")
    assert [len(one) for one in answers] == [
        len(row.get("prediction_objects", [])) for row in model(IMAGES)
    ]


@pytest.mark.parametrize("place", ["adapter", "pushed"])
def test_an_adapters_folder_is_loaded_with_the_prompt_of_its_run(
    trained: Path, pushed: Path, place: str
) -> None:
    adapter = pushed if place == "pushed" else trained / "adapter"
    expected = finetune.load(run=trained)(IMAGES)
    assert finetune.load(adapter=adapter)(IMAGES) == expected
    assert finetune.load(str(adapter))(IMAGES) == expected


def test_an_adapter_without_a_run_is_put_on_the_base_that_it_names(trained: Path, pushed: Path) -> None:
    (pushed / "config.yaml").unlink()
    row = finetune.load(str(pushed)).ask(IMAGES[0], "detect all classes")
    assert row["prefix"] == "detect all classes"
    settings = json.loads((pushed / "adapter_config.json").read_text(encoding="utf-8"))
    (pushed / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": None}))
    with pytest.raises(UserError, match="does not name the base of the adapter: give it with model="):
        finetune.load(str(pushed))


def test_a_checkpoint_is_loaded_by_its_folder_or_name() -> None:
    assert finetune.load(model="tiny").classes == []
    base = Path(finetune.__file__).parent / "assets/tiny"
    assert finetune.load(str(base)).ask(IMAGES[0], "caption en")["prefix"] == "caption en"


def push(folder: Path, name: str = "ann/boxes", private: bool = False) -> str:
    api = HfApi()
    api.create_repo(name, exist_ok=True, private=private)
    return str(api.upload_folder(folder_path=folder, repo_id=name).oid)


def test_a_published_run_is_loaded_by_its_name(hub: ConnectedHub, trained: Path, pushed: Path) -> None:
    first = push(pushed, private=True)
    expected = finetune.load(run=trained)(IMAGES)
    for words, options in (
        (["ann/boxes"], {}),
        ([], {"run": "ann/boxes"}),
        ([], {"adapter": "ann/boxes"}),
        ([f"ann/boxes@{first}"], {}),
    ):
        assert finetune.load(*words, **options)(IMAGES) == expected
    rows = finetune.predict(run="ann/boxes", image=IMAGES).rows
    assert [row["prediction"] for row in rows] == [row["prediction"] for row in expected]


def test_a_revision_is_another_result(hub: ConnectedHub, pushed: Path) -> None:
    first = push(pushed)
    text = (pushed / "config.yaml").read_text(encoding="utf-8")
    (pushed / "config.yaml").write_text(text.replace("prompt: detect all classes", "prompt: detect digits"))
    push(pushed)
    assert finetune.load(f"ann/boxes@{first}")(IMAGES[:1])[0]["prefix"] == "detect all classes"
    assert finetune.load("ann/boxes")(IMAGES[:1])[0]["prefix"] == "detect digits"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param(
            "ann/nothing", "There is no model `ann/nothing` on the Hub, nor a folder", id="missing"
        ),
        pytest.param("ann/boxes@v9", "`ann/boxes` has no revision `v9`", id="revision"),
        pytest.param("runs", "runs holds no run: there is no runs/config.yaml", id="no-id"),
    ],
)
def test_what_is_not_on_the_hub_is_said(hub: ConnectedHub, pushed: Path, name: str, message: str) -> None:
    push(pushed)
    with pytest.raises(UserError, match=message):
        finetune.load(name)


def test_a_private_run_is_not_there_for_others(
    hub: ConnectedHub, pushed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(pushed, private=True)
    hub.login(monkeypatch, STRANGER)
    with pytest.raises(UserError, match="or it is private, and the token in use may not read it"):
        finetune.load("ann/boxes")


def test_two_models_are_too_many(trained: Path) -> None:
    with pytest.raises(UserError, match="Which model\\? Name one of .*boxes, model="):
        finetune.load(str(trained), model="tiny")


def test_a_missing_package_is_named(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = finetune.load(str(trained))
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UserError, match=r"pip install 'finetune-paligemma\[supervision\]'"):
        model.to_supervision({"prediction": ""})


def test_a_scored_run_of_the_hub_is_reproduced(hub: ConnectedHub, pushed: Path, tmp_path: Path) -> None:
    push(pushed)
    result = finetune.reproduce(card="ann/boxes", runs_dir=tmp_path / "again")
    assert (result.verdict, result.folder.name) == ("equal", "boxes_reproduce")


def test_evaluate_does_not_write_into_a_published_run(hub: ConnectedHub, pushed: Path) -> None:
    push(pushed)
    with pytest.raises(UserError, match="reproduce card=ann/boxes"):
        finetune.evaluate(run="ann/boxes")


def test_masks_are_arrays_of_the_image() -> None:
    from finetune.assembly.detections import decode_row_masks, to_supervision

    rle = {"size": [2, 3], "counts": [1, 2, 3]}
    box = {"label": "a", "box_xyxy": [0.0, 0.0, 3.0, 2.0]}
    row = {"width": 3, "height": 2, "prediction_objects": [{**box, "mask_rle": rle}, box]}
    masks = decode_row_masks(row)
    assert masks is not None
    assert masks.tolist() == [[[False, True, False], [True, False, False]], [[False] * 3] * 2]
    found = to_supervision(row, ["b"])
    assert np.array_equal(found.mask, masks)
    assert (found.class_id.tolist(), found.confidence) == ([1, 1], None)
    assert decode_row_masks({"prediction": "a cat"}) is None
    assert len(to_supervision({"prediction": "a cat"}, [])) == 0
    assert Image.fromarray(masks[0]).size == (3, 2)


def turned(image: Image.Image, file: Path) -> Path:
    """Write an image as a phone stores it: sideways, with a note how to turn it."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(file, exif=exif)
    return file


def test_boxes_are_of_the_upright_original_whatever_its_size_or_its_file(tmp_path: Path) -> None:
    picture = Image.new("RGB", (300, 200))
    ImageDraw.Draw(picture).ellipse((20, 30, 110, 110), outline="white", width=14)
    ImageDraw.Draw(picture).rectangle((170, 110, 270, 190), fill="white")
    file = turned(picture, tmp_path / "phone.png")
    larger = picture.resize((1200, 800), Image.Resampling.NEAREST)
    model = finetune.load(model="tiny")
    with Image.open(file) as phone:
        assert phone.size == (200, 300)
        given: list[Any] = [picture, file, phone, larger]
        upright, stored, opened, large = model(given, "detect ring ; square")
    square = upright["prediction_objects"][1]
    # The model is tiny; the other boxes are exact.
    assert square["box_xyxy"] == pytest.approx([170, 110, 270, 190], abs=40)
    for row in (stored, opened):
        assert (row["width"], row["height"]) == (300, 200)
        assert row["prediction_objects"] == upright["prediction_objects"]
    assert large["prediction_objects"][1]["box_xyxy"] == pytest.approx(
        [4 * side for side in square["box_xyxy"]], abs=12
    )


def test_the_base_of_a_published_run_is_that_of_its_adapter_where_its_folder_is_not_here(
    hub: ConnectedHub, trained: Path, pushed: Path
) -> None:
    base = Path(finetune.__file__).parent / "assets/tiny"
    commit = push(base, "ann/base")
    config = (pushed / "config.yaml").read_text(encoding="utf-8")
    (pushed / "config.yaml").write_text(config.replace("path: tiny\n", "path: my-base\n"), encoding="utf-8")
    settings = json.loads((pushed / "adapter_config.json").read_text(encoding="utf-8"))
    settings |= {"base_model_name_or_path": "ann/base", "revision": commit}
    (pushed / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    push(pushed)
    assert finetune.load("ann/boxes")(IMAGES) == finetune.load(run=trained)(IMAGES)
