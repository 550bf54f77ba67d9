import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import finetune
from finetune.assembly.answering import name_drawings
from finetune.assembly.predictor import Predictor
from finetune.assembly.prompts import Prompt
from finetune.cli import main
from finetune.codecs.rle import decode_rle
from finetune.data.batches.resize import resize_as_paper
from finetune.data.images import Picture
from finetune.data.options import Canvas
from finetune.example import AnswerForm, Example, PredictionRow
from finetune.model.cache import RowCache
from finetune.model.decoder import Decoder
from finetune.run.answers import AnswerFolder
from finetune.tasks.grammar import can_write
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
        (
            ["image=pictures", "question=what?"],
            "It has no fields. Or write the whole prompt: prefix='detect all classes'.",
        ),
        (["image=pictures", "prefix=x", "labels=[0]"], "prefix= is a whole prompt, labels= a part"),
        (["prefix=x"], "Which image? image=FILE or image=FOLDER"),
        (["prefix=x", "image=nowhere.png"], "No image nowhere.png"),
        (["prefix=x", "image=runs/quickstart_detect/predictions"], "holds no image"),
        (["prefix=x", "image=bare.txt"], "not an image that Pillow can read"),
        (["prefix=x", "image=pictures", "out=bare.txt"], "bare.txt is a file. Expected a folder"),
        (["prefix=x", "image=pictures", "out=bare.txt/in"], "bare.txt is a file. Expected a folder"),
        (["prefix=x", "image=pictures", "out=pictures"], "is the folder of the images itself"),
        (["prefix=x", "image=pictures/*.png", "out=pictures"], "is there, and `predict` did not write it"),
        (["prefix=x", "image=pictures/*.jpg"], "matches no image"),
        (["prefix=x", "image=mixed/3.png,bare.txt"], "3.png` is not an image that Pillow can read"),
        (["prompts=bare.txt"], "bare.txt line 1: not JSON"),
        (["prompts=prompts.jsonl"], "prompts.jsonl line 2: expected `image`, the path of a file"),
        (["prefix=x", "image=pictures", "overwrite=true"], "overwrite=true needs out="),
    ],
)
def test_a_mistake_is_told_before_weights_are_read(
    inside: Path, command: Command, words: list[str], message: str
) -> None:
    (inside / "bare.txt").write_text("no picture")
    (inside / "mixed").mkdir(exist_ok=True)
    shutil.copy(inside / "pictures/validation-0.png", inside / "mixed/2.png")
    (inside / "mixed/3.png").write_text("no picture")
    (inside / "prompts.jsonl").write_text('{"image": "pictures/validation-0.png"}\n{"prefix": "x"}\n')
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


def drawings(out: Path, *names: str) -> list[str]:
    """The files that drawings of these images would get."""
    asked = [Prompt(name, Path(name), "caption en") for name in names]
    named = name_drawings(asked, None, AnswerFolder(out, {}))
    return [named[prompt.key].relative_to(out).as_posix() for prompt in asked]


def test_drawings_are_named_after_their_images_and_none_replaces_another(tmp_path: Path) -> None:
    assert drawings(tmp_path, "in/a.jpg", "in/b/a.jpg") == ["a.png", "b/a.png"]
    assert drawings(tmp_path, "a.jpg", "b/a.jpg", "a.png", "a.jpg.gif") == [
        "a.jpg.png", "b/a.png", "a.png.png", "a.jpg-2.png",
    ]  # fmt: skip
    assert drawings(tmp_path, "../x/a.jpg", "y/a.jpg") == ["x/a.png", f"{tmp_path.cwd().name}/y/a.png"]


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

    monkeypatch.setattr("finetune.data.batches.pixels.resize_as_paper", resize)
    words = ["predict", "run=runs/paper", "image=turned.png", "prefix=detect all classes"]
    assert command(*words)[0] == 0
    assert resized == [((40, 20), (56, 56), True)]
    assert command(*words, "image.resize=bicubic")[0] == 0
    assert len(resized) == 1


DETECT = ["run=runs/quickstart_detect", "image=pictures"]


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_without_a_prompt_the_task_of_the_run_asks(inside: Path, command: Command) -> None:
    code, out, err = command("predict", *DETECT)
    assert (code, err) == (0, "")
    assert {json.loads(line)["prefix"] for line in out.splitlines()} == {"detect all classes"}


def test_fields_are_put_into_the_prompt_of_the_task(inside: Path, command: Command) -> None:
    tiny = ["model=tiny", "image=pictures/validation-0.png", "evaluation.max_new_tokens=2"]
    for words, prefix in (
        (["task=vqa", "question=what is it?"], "answer en what is it?"),
        (["task=detection", "labels=[cat,traffic light]"], "detect cat ; traffic light"),
        (["task=referring_detection", "expression=the left cat"], "detect the left cat"),
        (["task=caption"], "caption en"),
        (["task=choice", "question=what?", "choices=[a,b]"], "answer en what? choose from: (A) a, (B) b"),
    ):
        code, out, err = command("predict", *tiny, *words)
        assert (code, json.loads(out)["prefix"]) == (0, prefix), err
    code, _, err = command("predict", *tiny, "task=vqa", "labels=[cat]")
    assert code == 2
    assert "labels= has no place in the prompt of this task. What fits there: question=." in err
    code, _, err = command("predict", *tiny, "task=vqa")
    assert code == 2
    assert "Which prompt? The task asks with question=...; or write the whole prompt: prefix=" in err


def test_each_class_is_a_prompt_of_its_own_where_the_task_asks_so(inside: Path, command: Command) -> None:
    words = ["model=tiny", "image=pictures/validation-0.png", "task=detection", "task.classes=one"]
    code, out, err = command("predict", *words, "task.labels=[cat,dog]", "evaluation.max_new_tokens=2")
    assert code == 0, err
    assert [json.loads(line)["prefix"] for line in out.splitlines()] == ["detect cat", "detect dog"]


def test_a_file_has_prompts_of_its_own(inside: Path, command: Command) -> None:
    (inside / "asked").mkdir()
    rows = [
        {"image": "../pictures/validation-0.png", "question": "what?"},
        {"image": "pictures/validation-1.png", "prefix": "caption en", "references": ["unused"]},
        {"question": "how many?"},
    ]
    (inside / "asked/prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["model=tiny", "task=vqa", "prompts=asked/prompts.jsonl", "evaluation.max_new_tokens=2"]
    code, out, err = command("predict", *words, "image=pictures/validation-0.png,pictures/validation-1.png")
    assert code == 0, err
    assert [(row["image"], row["prefix"]) for row in map(json.loads, out.splitlines())] == [
        ("asked/../pictures/validation-0.png", "answer en what?"),
        ("pictures/validation-1.png", "caption en"),
        ("pictures/validation-0.png", "answer en how many?"),
        ("pictures/validation-1.png", "answer en how many?"),
    ]


def test_the_same_command_goes_on_where_it_was_stopped(
    inside: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*DETECT, "out=kept", "evaluation.batch_size=1"]
    answer, asked = Predictor.answer, []

    def stop_at_second(self: Predictor, examples: list[Example]) -> list[PredictionRow]:
        asked.append([example.id for example in examples])
        if len(asked) == 2:
            raise KeyboardInterrupt
        return answer(self, examples)

    monkeypatch.setattr(Predictor, "answer", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        command("predict", *words)
    kept = inside / "kept"
    [first] = read(kept / "predictions.jsonl")
    assert (kept / first["drawing"]).is_file()
    # As if it had been killed in the middle of a line.
    with (kept / "predictions.jsonl").open("a") as file:
        file.write('{"image": "pictures/val')
    (kept / first["drawing"]).unlink()
    code, out, err = command("predict", *words)
    assert (code, asked[2:]) == (0, [asked[1], ["pictures/validation-1.png"]]), err
    rows = read(kept / "predictions.jsonl")
    lines = out.splitlines()[1:]  # the first one is that of the command that was stopped
    assert [json.loads(line) for line in lines] == rows
    assert [row["image"] for row in rows] == [
        f"pictures/{name}.png" for name in ("more/validation-2", "validation-0", "validation-1")
    ]
    assert all((kept / row["drawing"]).is_file() for row in rows)
    monkeypatch.setattr("finetune.jobs.predict.Predictor", None)  # a third time no weights are read
    code, again, _ = command("predict", *words)
    assert (code, again.splitlines()) == (0, lines)


@pytest.mark.parametrize(
    ("word", "name"),
    [
        pytest.param("trainer.bf16=false", "trainer.bf16 was True, and is now False", id="autocast"),
        pytest.param("task.divisor=1024", "task.divisor was 1023, and is now 1024", id="reading"),
    ],
)
def test_answers_that_were_computed_or_read_otherwise_are_of_another_command(
    inside: Path, command: Command, word: str, name: str
) -> None:
    words = [DETECT[0], "image=pictures/validation-0.png", "out=computed"]
    assert command("predict", *words)[0] == 0
    code, out, err = command("predict", *words, word)
    assert (code, out) == (2, "")
    assert f"computed has the answers of another command: its {name}" in err


def test_answers_of_weights_that_were_replaced_are_those_of_another_command(
    inside: Path, command: Command
) -> None:
    shutil.copytree(inside / "runs/quickstart_detect/model", inside / "mine")
    words = ["predict", "model=./mine", "image=pictures/validation-0.png", "prefix=detect 1", "out=of_mine"]
    assert command(*words)[0] == 0
    weights = inside / "mine/model.safetensors"
    save_file({name: -value for name, value in load_file(weights).items()}, weights)
    code, out, err = command(*words)
    assert (code, out) == (2, "")
    assert "of_mine has the answers of another command: its weights" in err


def test_answers_of_another_command_are_kept_unless_it_starts_over(inside: Path, command: Command) -> None:
    words = [*DETECT, "out=other"]
    assert command("predict", *words)[0] == 0
    (inside / "other/notes.png").write_text("mine")
    before = read(inside / "other/predictions.jsonl")
    code, out, err = command("predict", *words, "prefix=detect 1")
    assert (code, out) == (2, "")
    assert "other has the answers of another command: its prefix was nothing, and is now 'detect 1'" in err
    assert read(inside / "other/predictions.jsonl") == before
    words = [words[0], "image=pictures/more", words[2], "prefix=detect 1"]
    assert command("predict", *words, "overwrite=true")[0] == 0
    [row] = read(inside / "other/predictions.jsonl")
    assert (row["prefix"], row["drawing"]) == ("detect 1", "validation-2.png")
    assert sorted(file.name for file in (inside / "other").rglob("*.png")) == [
        "notes.png",
        "validation-2.png",
    ]
    assert (inside / "other/notes.png").read_text() == "mine"


def test_files_of_the_user_are_never_replaced(inside: Path, command: Command) -> None:
    for name in ("predictions.jsonl", "validation-1.png"):
        (inside / name.partition(".")[0]).mkdir()
        file = inside / name.partition(".")[0] / name
        file.write_text("mine")
        code, out, err = command("predict", *DETECT, f"out={file.parent.name}", "overwrite=true")
        assert (code, out) == (2, "")
        assert f"{name} is there, and `predict` did not write it" in err
        assert [file.read_text(), len(list(file.parent.iterdir()))] == ["mine", 1]


def test_two_commands_do_not_write_into_one_folder(inside: Path, command: Command) -> None:
    assert command("predict", *DETECT, "out=busy")[0] == 0
    code = (
        "import fcntl, sys; file = open('busy/predictions.jsonl', 'a'); fcntl.lockf(file, fcntl.LOCK_EX); "
    )
    code += "print('locked', flush=True); sys.stdin.read()"
    with Popen([sys.executable, "-c", code], stdin=PIPE, stdout=PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        status, out, err = command("predict", *DETECT, "out=busy", "overwrite=true")
        assert (status, out) == (2, "")
        assert "another `predict` is writing there" in err
        other.kill()
    assert len(read(inside / "busy/predictions.jsonl")) == 3


def test_drawings_below_the_images_are_not_asked_about(inside: Path, command: Command) -> None:
    shutil.copytree(inside / "pictures", inside / "own")
    for _ in range(2):
        code, out, _ = command("predict", "run=runs/quickstart_detect", "image=own", "out=own/drawn")
        assert (code, len(out.splitlines())) == (0, 3)


def test_broken_images_are_listed_and_all_others_answered(inside: Path, command: Command) -> None:
    folder = inside / "some"
    folder.mkdir()
    for name in ("1.png", "2.png", "3.png"):
        noise_image(0, 64, 64).save(folder / name)
    break_inside(folder / "2.png")
    (folder / "3.png").write_text("no picture")
    words = ["run=runs/quickstart_detect", "image=some", "out=listed"]
    code, out, err = command("predict", *words)
    assert (code, len(out.splitlines())) == (2, 1)
    assert "2 of 3 images were left out" in err
    assert "All of them: listed/left_out.jsonl" in err
    reasons = [row["reason"] for row in read(inside / "listed/left_out.jsonl")]
    assert ["3.png" in reasons[0], "2.png" in reasons[1]] == [True, True]
    for name in ("2.png", "3.png"):
        noise_image(1, 64, 64).save(folder / name)
    code, out, _ = command("predict", *words)
    assert (code, len(out.splitlines())) == (0, 3)
    assert not (inside / "listed/left_out.jsonl").exists()


def test_a_batch_that_does_not_fit_is_halved(
    inside: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Decoder.read_tokens

    def out_of_memory(self: Decoder, tokens: Tensor, cache: RowCache) -> Tensor:
        if len(tokens) > 1:
            raise torch.OutOfMemoryError
        return read(self, tokens, cache)

    monkeypatch.setattr(Decoder, "read_tokens", out_of_memory)
    code, out, err = command("predict", *DETECT, "evaluation.batch_size=3")
    assert (code, len(out.splitlines())) == (0, 3), err
    assert "out of memory with 3 prompts at once: 2 from now on" in err


def test_a_grammar_constrains_what_predict_answers(inside: Path, command: Command) -> None:
    limits = ["evaluation.grammar=auto", "evaluation.max_new_tokens=30"]
    words = ["predict", "model=tiny", "image=pictures", *limits]
    code, out, err = command(*words, "task=detection", "labels=[cat,dog]")
    assert code == 0, err
    form = AnswerForm((" cat", " dog"), box=True)
    assert all(can_write(form, json.loads(line)["prediction"]) for line in out.splitlines())
    for task, message in (
        (["task=caption"], "the task does not say what its answers are"),
        (["task=choice", "prefix=which?"], "the choices are not known from the prompt alone"),
        (["task=detection", "prefix=what is there?"], "the classes are not known"),
    ):
        code, out, err = command(*words, *task)
        assert (code, out) == (2, "")
        assert message in err


def test_a_loaded_run_takes_what_predict_takes(inside: Path) -> None:
    model = finetune.load(run="runs/quickstart_detect")
    files = sorted((inside / "pictures").glob("*.png"))
    row = model.ask(files[0])
    assert row["prefix"] == "detect all classes"
    assert model.ask_all(files) == finetune.predict(run="runs/quickstart_detect", image=files).rows
    prompts = [{"image": Image.open(file), "prefix": "detect 1"} for file in files]
    answers = model.ask_all(prompts=prompts)
    assert [(row["image"], row["prefix"]) for row in answers] == [("0", "detect 1"), ("1", "detect 1")]
    assert answers == finetune.predict(run="runs/quickstart_detect", prompts=prompts).rows
    with pytest.raises(finetune.UserError, match="question= has no place"):
        model.ask(files[0], question="what?")
    wrong: list[tuple[Any, str]] = [
        (5, "prompts: expected a file, or a list of dicts, but got 5"),
        ([], "prompts: expected a file, or a list of dicts"),
        (["x"], "prompts item 1: expected a dict, but got 'x'"),
        ([{"prefix": 5, "image": files[0]}], "prompts item 1: prefix: expected a text, but got 5"),
        ([{"image": "nowhere.png"}], "^no image `nowhere.png`.$"),
    ]
    for rows, message in wrong:
        with pytest.raises(finetune.UserError, match=message):
            finetune.predict(run="runs/quickstart_detect", prompts=rows)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["image=pictures", "prefix="], "The prompt is empty", id="empty prompt"),
        pytest.param(
            ["image=pictures", f"prefix={'word ' * 3000}"],
            "text tokens, the limit is 2,048",
            id="long prompt",
        ),
        pytest.param(["image=asked.jsonl"], "prompts=asked.jsonl", id="prompts as image"),
    ],
)
def test_a_prompt_that_cannot_be_meant_is_refused(
    inside: Path, command: Command, words: list[str], message: str
) -> None:
    (inside / "asked.jsonl").write_text('{"image": "pictures/validation-0.png", "prefix": "detect 1"}\n')
    code, out, err = command("predict", "run=runs/quickstart_detect", *words)
    assert (code, out) == (2, "")
    assert message in err
