import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from finetune.cli import main
from finetune.codecs.rle import decode_rle
from finetune.data.batches.resize import resize_as_paper
from finetune.data.images import Picture
from finetune.data.options import Canvas
from finetune.jobs.predict import name_pictures
from tests.conftest import break_inside, noise_image

Command = Callable[..., tuple[int, str, str]]
FEW_STEPS = ["trainer.max_steps=1", "trainer.limit=4", "evaluation.limit=12", "dataset.train=64"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs that have hardly learnt anything, and some canvases as pictures."""
    folder = tmp_path_factory.mktemp("predict")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("FINETUNE_CACHE", str(folder / "cache"))
        assert main(["recipe=quickstart_detect", *FEW_STEPS]) == 0
        assert main(["recipe=quickstart_segment", *FEW_STEPS]) == 0
    (folder / "pictures" / "more").mkdir(parents=True)
    for row in Canvas(train=1, validation=3, size=56, digits=2).load().validation:
        place = "more" if row["id"].endswith("2") else "."
        Picture(row["image"], "").load().save(folder / "pictures" / place / f"{row['id']}.png")
    return folder


@pytest.fixture
def inside(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(runs)
    return runs


def test_a_run_with_boxes_leaves_complete_rows_and_ten_pictures(inside: Path) -> None:
    run = inside / "runs/quickstart_detect"
    lines = (run / "predictions/validation.jsonl").read_text().splitlines()
    row = json.loads(lines[0])
    assert len(lines) == 12
    assert {"id", "prefix", "width", "height", "objects", "prediction", "prediction_objects"} <= row.keys()
    assert {"label", "box_xyxy", "mask_rle"} <= row["objects"][0].keys()
    assert len(list((run / "pictures").glob("*.png"))) == 10


def test_every_picture_of_a_folder_is_asked_and_drawn(inside: Path, command: Command) -> None:
    words = ["run=runs/quickstart_detect", "image=pictures", "prefix=detect all classes", "out=drawn"]
    code, out, err = command("predict", *words)
    assert (code, err) == (0, "")
    rows = [json.loads(line) for line in out.splitlines()]
    names = ["more/validation-2", "validation-0", "validation-1"]
    assert [row["image"] for row in rows] == [f"pictures/{name}.png" for name in names]
    assert {row["prefix"] for row in rows} == {"detect all classes"}
    for name, row in zip(names, rows, strict=True):
        with Image.open(inside / f"drawn/{name}.png") as drawn:
            assert drawn.width >= 320
        for one in row.get("prediction_objects", []):
            assert 0 <= one["score"] <= 1
            assert [round(side, 2) for side in one["box_xyxy"]] == one["box_xyxy"]


def test_masks_are_read_with_the_runs_own_weights(inside: Path, command: Command) -> None:
    run = inside / "runs/quickstart_segment"
    assert (run / "mask_vae.npz").is_file()
    words = ["run=runs/quickstart_segment", "image=pictures/validation-0.png"]
    code, out, _ = command("predict", *words, "prefix=segment all classes")
    assert code == 0
    for one in json.loads(out).get("prediction_objects", []):
        if "mask_rle" in one:
            assert decode_rle(one["mask_rle"], (56, 56)).shape == (56, 56)


def test_a_checkpoint_without_a_run_answers_too(inside: Path, command: Command) -> None:
    words = ["model=tiny", "image=pictures/validation-0.png", "prefix=answer en which letter is this?"]
    code, out, _ = command("predict", *words)
    assert code == 0
    assert json.loads(out)["prediction"]


def test_scores_of_masks_are_read_from_text_with_the_weights(inside: Path, command: Command) -> None:
    rows = inside / "runs/quickstart_segment/predictions/validation.jsonl"
    bare = [json.loads(line) for line in rows.read_text().splitlines()]
    (inside / "bare.jsonl").write_text(
        "\n".join(
            json.dumps({name: value for name, value in row.items() if name != "prediction_objects"})
            for row in bare
        )
    )
    own = "metric.mask_vae=runs/quickstart_segment/mask_vae.npz"
    scores = []
    for file, words in (("bare.jsonl", [own]), (str(rows), [])):
        code, out, _ = command("score", "metric=segmentation", f"predictions={file}", *words)
        assert code == 0
        scores.append(json.loads(out))
    assert scores[0] == scores[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["image=pictures"], "Which prompt? prefix=\"...\", such as this run's own: prefix='detect all"),
        (["prefix=x"], "Which image? image=FILE or image=FOLDER"),
        (["prefix=x", "image=nowhere.png"], "No image nowhere.png"),
        (["prefix=x", "image=runs/quickstart_detect/predictions"], "holds no image"),
        (["prefix=x", "image=bare.txt"], "not an image that Pillow can read"),
        (["prefix=x", "image=pictures", "out=bare.txt"], "bare.txt is a file. Expected a folder"),
        (["prefix=x", "image=pictures", "out=bare.txt/in"], "bare.txt is a file. Expected a folder"),
        (["prefix=x", "image=pictures", "out=pictures"], "is one of the images itself"),
        (["prefix=x", "image=mixed"], "3.png` is not an image that Pillow can read"),
    ],
)
def test_a_mistake_is_told_before_weights_are_read(
    inside: Path, command: Command, words: list[str], message: str
) -> None:
    (inside / "bare.txt").write_text("no picture")
    (inside / "mixed").mkdir(exist_ok=True)
    shutil.copy(inside / "pictures/validation-0.png", inside / "mixed/2.png")
    (inside / "mixed/3.png").write_text("no picture")
    code, out, err = command("predict", "run=runs/quickstart_detect", *words)
    assert (code, out) == (2, "")
    assert message in err


def test_an_image_that_cannot_be_decoded_does_not_cost_the_others(inside: Path, command: Command) -> None:
    (inside / "cut").mkdir()
    for name in ("1.png", "2.png", "3.png"):
        noise_image(0, 64, 64).save(inside / "cut" / name)
    break_inside(inside / "cut/2.png")
    code, out, err = command(
        "predict", "run=runs/quickstart_detect", "image=cut", "prefix=detect all classes"
    )
    assert code == 2
    assert [json.loads(line)["image"] for line in out.splitlines()] == ["cut/1.png", "cut/3.png"]
    assert "1 of 3 images were left out: image `cut/2.png` cannot be decoded" in err


def test_drawings_are_named_after_their_images_and_none_replaces_another(tmp_path: Path) -> None:
    files = [tmp_path / "in" / name for name in ("a.jpg", "b/a.jpg")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    names = name_pictures(files, tmp_path / "in", tmp_path / "out")
    assert list(names.values()) == [tmp_path / "out/a.png", tmp_path / "out/b/a.png"]
    files.append(tmp_path / "in/a.png")
    names = name_pictures(files, tmp_path / "in", tmp_path / "out")
    expected = ["a.jpg.png", "b/a.jpg.png", "a.png.png"]
    assert list(names.values()) == [tmp_path / "out" / name for name in expected]


def test_a_run_asks_with_the_pixels_that_it_was_trained_on(
    inside: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(inside / "runs/quickstart_detect", inside / "runs/paper")
    config = inside / "runs/paper/config.yaml"
    text = config.read_text()
    assert "resize: bicubic" in text
    config.write_text(text.replace("resize: bicubic", "resize: paper"))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(inside / "turned.png", exif=exif)
    resized = []

    def resize(image: Image.Image, size: tuple[int, int], antialias: bool) -> Image.Image:
        resized.append((image.size, size, antialias))
        return resize_as_paper(image, size, antialias)

    monkeypatch.setattr("finetune.data.batches.collator.resize_as_paper", resize)
    words = ["predict", "run=runs/paper", "image=turned.png", "prefix=detect all classes"]
    assert command(*words)[0] == 0
    assert resized == [((40, 20), (56, 56), True)]
    assert command(*words, "image.resize=bicubic")[0] == 0
    assert len(resized) == 1
