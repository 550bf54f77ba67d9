"""`data=FOLDER` is the same as the options that it is written out as, for every export."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import finetune
from finetune.command import compose_command, read_line
from finetune.config.compose import write_recipe
from finetune.config.data_word import RECIPES, name_run, write_out
from finetune.data.recognition.kinds import Kind
from finetune.errors import UserError
from tests.data.formats import exports
from tests.data.formats.exports import EXPORTS

Command = Callable[..., tuple[int, str, str]]

RECIPE_OF = {
    **dict.fromkeys(("label_studio_polygons", "label_studio_brushes", "cvat_polygons"), "segment_qlora"),
    **dict.fromkeys(("cvat_masks", "labelme_polygons", "labelme_masks"), "segment_qlora"),
    **dict.fromkeys(("label_studio_choices", "json_list", "excel_csv"), "vqa_qlora"),
    "label_studio_captions": "caption_qlora",
}
"""Export -> its recipe, if it is not that of its kind."""
OF_KIND = {
    "boxes": "detect_qlora",
    "masks": "detect_qlora",
    "pairs": "text_qlora",
    "classes": "classify_qlora",
}
"""Outlines of COCO's export are the corners of its boxes."""

SHORT = ("model=tiny", "trainer.max_steps=2", "evaluation.limit=2", "trainer.dataloader_num_workers=0")


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def composed(words: list[str], job: str = "train") -> str:
    """Return the config that becomes `config.yaml`."""
    command = compose_command(job, read_line(job, words).overrides)
    command.check()
    return write_recipe(command.composed, command.choices)


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_is_the_same_as_the_command_that_is_printed(name: str, inside: Path) -> None:
    export = EXPORTS[name]
    export.make(inside / "my export")
    line = read_line("train", ["data=my export", "model=tiny", "seed=3"])
    assert line.recognized is not None
    _, command = line.recognized.splitlines()
    words = shlex.split(command)[4:]
    assert composed(words) == composed(["data=my export", "model=tiny", "seed=3"])
    values = dict(word.split("=", 1) for word in words)
    assert values["recipe"] == RECIPE_OF.get(name) or OF_KIND[export.kind]
    assert values["run_name"] == "my_export"
    splits = {*export.splits, *([] if "validation" in export.splits else ["validation_fraction"])}
    possible = {"train", "validation", "validation_fraction", "test"}
    assert splits == {key[8:] for key in values if key[8:] in possible}


@pytest.mark.parametrize(
    "name", ["roboflow_yolo", "label_studio_polygons", "json_list", "class_folders", "llava"]
)
def test_an_export_is_planned_without_another_word(name: str, inside: Path, command: Command) -> None:
    EXPORTS[name].make(inside / "export")
    code, out, err = command("plan", "data=export", "model=tiny")
    assert code == 0, err
    assert f"dataset={EXPORTS[name].dataset}" in out
    assert " steps, " in out
    assert not (inside / "runs").exists()


@pytest.mark.parametrize("name", ["roboflow_coco", "roboflow_paligemma"])
def test_an_export_trains_and_its_test_split_is_scored_at_the_end(
    name: str, inside: Path, command: Command
) -> None:
    EXPORTS[name].make(inside / "export")
    if shared := EXPORTS[name].dataset == "jsonl":
        files = [inside / f"export/dataset/_annotations.{split}.jsonl" for split in ("train", "test")]
        files[0].write_text("".join(file.read_text() for file in files))
    code, out, err = command("data=export", *SHORT)
    assert code == 0, err
    assert "final scores, test, " in out
    assert ("1 of 1 test examples are also in train" in out + err) == shared
    run = inside / "runs/export"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test"]["n"] == len(exports.SCENES["test"])
    assert len((run / "predictions/test.jsonl").read_text().splitlines()) == metrics["test"]["n"]
    assert "dataset.auto" not in (run / "config.yaml").read_text()

    # The run's config has the options, so that nothing is recognized again.
    (inside / "export/README.dataset.txt").unlink(missing_ok=True)
    code, out, err = command("evaluate", "run=runs/export", "split=test")
    assert code == 0, err
    (entry,) = json.loads((run / "metrics.json").read_text())["evaluate"]
    assert (entry["split"], entry["scores"]["n"]) == ("test", metrics["test"]["n"])
    assert entry["rows"] == "predictions/test.evaluate.jsonl"
    same = {key: value for key, value in metrics["test"].items() if key not in {"loss", "confidence"}}
    assert {key: entry["scores"][key] for key in same} == same


def test_python_takes_the_folder_too(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exports.excel_csv(inside / "export")
    plan = finetune.plan(data=inside / "export", model="tiny")
    assert plan.train_examples + plan.validation_examples == len(exports.ALL)
    assert capsys.readouterr().out == ""


def test_each_run_of_a_sweep_has_the_data(inside: Path) -> None:
    exports.maestro(inside / "a,b")
    line = read_line("train", ["-m", "data=a,b", "model=tiny", "peft.r=2,4"])
    assert line.members is not None
    assert len(line.members) == 2
    for number, member in enumerate(line.members):
        command = compose_command("train", member, number)
        options, folder = command.check()
        assert options.dataset.train == "a,b/train/annotations.jsonl"
        assert folder == Path(f"runs/a_b/{number}")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(["task.prompt=find {labels}"], {"task.prompt": "find {labels}"}, id="prompt"),
        pytest.param(["run_name=other"], {"run_name": "other"}, id="name"),
        pytest.param(["recipe=segment_qlora"], {"recipe": "segment_qlora"}, id="recipe"),
        pytest.param(["task=segmentation"], {"recipe": "segment_qlora"}, id="task"),
        pytest.param(
            ["dataset.validation_fraction=0.5"],
            {"dataset.validation_fraction": "0.5", "dataset.validation": None},
            id="share",
        ),
        pytest.param(["dataset.validation=other"], {"dataset.validation": "other"}, id="split"),
        pytest.param(["dataset.test=null"], {"dataset.test": "null"}, id="no test split"),
    ],
)
def test_other_words_win(words: list[str], expected: dict[str, str | None], inside: Path) -> None:
    exports.roboflow_coco(inside / "export")
    written = write_out("train", ["data=export", "model=tiny", *words]).words
    values = dict(word.split("=", 1) for word in written)
    assert len(values) == len(written), "no key twice"
    assert {key: values.get(key) for key in expected} == expected
    composed(written)


def test_a_preview_has_a_folder_of_its_own(inside: Path) -> None:
    exports.roboflow_coco(inside / "export")
    assert "out=previews/export" in write_out("preview", ["data=export", "model=tiny"]).words
    assert not [word for word in write_out("train", ["data=export"]).words if word.startswith("out=")]


def test_an_archive_is_to_be_unpacked(inside: Path) -> None:
    (inside / "export.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"is an archive\. Unpack it, and give the folder: data=export\."):
        write_out("train", ["data=export.zip"])


def test_dataset_auto_is_the_long_form(inside: Path) -> None:
    exports.roboflow_voc(inside / "export")
    long = write_out("train", ["dataset=auto", "dataset.path=export", "seed=1"])
    assert long == write_out("train", ["data=export", "seed=1"])


def test_an_evaluation_has_a_folder_of_its_own_and_only_words_that_it_reads(inside: Path) -> None:
    exports.roboflow_paligemma(inside / "export")
    words = write_out("evaluate", ["data=export", "model=tiny"]).words
    assert "run_name=export_evaluate" in words
    assert not [word for word in words if word.startswith("evaluation.")]
    composed(words, "evaluate")


def two_formats(folder: Path) -> None:
    exports.roboflow_coco(folder)
    exports.excel_csv(folder)


def odd_table(folder: Path) -> None:
    exports.write(folder / "data.csv", "image,foo,bar\na.jpg,1,2\n")


def nothing(folder: Path) -> None:
    folder.mkdir()


def only_images(folder: Path) -> None:
    exports.draw(exports.ALL[0], folder / "a.jpg")


def two_files(folder: Path) -> None:
    odd_table(folder)
    exports.json_list(folder)
    exports.write(folder / "more.csv", "image,question,answer\na.jpg,what,cup\n")


def foreign_table(folder: Path) -> None:
    exports.write(folder / "fragen.csv", "Bild;Frage;Antwort\na.jpg;was?;tasse\n")


def wide_table(folder: Path) -> None:
    folder.mkdir()
    (folder / "data.csv").write_bytes("image,caption\na.jpg,Tür\n".encode("utf-16"))


def box_table(folder: Path) -> None:
    text = "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,20,10,cup,1,2,3,4\n"
    exports.write(folder / "train/_annotations.csv", text)


def label_studio_table(folder: Path) -> None:
    exports.write(folder / "project.csv", "image,id,label,annotator,annotation_id\n/data/a.jpg,1,[],1,1\n")


def unpacked(folder: Path) -> None:
    exports.labelme(folder / "inner")


def odd_images(folder: Path) -> None:
    folder.write_text("Foto,question,answer\na.jpg,what?,a cup\n")


@pytest.mark.parametrize(
    ("make", "words", "message"),
    [
        pytest.param(nothing, [], "The folder data (data=) is empty.", id="empty"),
        pytest.param(None, [], "No file or folder data (data=).", id="missing"),
        pytest.param(
            None, ["dataset=coco"], "No file or folder data (data=).", id="missing, with a format"
        ),
        pytest.param(only_images, [], "data (data=) has no data of a known format: ", id="images alone"),
        pytest.param(two_formats, [], "Name one of them next to data=, such as dataset=coco", id="two"),
        pytest.param(odd_table, [], "dataset.columns.answers=foo", id="columns"),
        pytest.param(foreign_table, [], "its columns are: Bild, Frage, Antwort. Name it: ", id="images"),
        pytest.param(wide_table, [], "Save the file as UTF-8.", id="UTF-16"),
        pytest.param(box_table, [], "has boxes in columns (xmax, xmin, ymax, ymin)", id="boxes in a CSV"),
        pytest.param(label_studio_table, [], "as JSON or JSON-MIN.", id="Label Studio's CSV"),
        pytest.param(unpacked, [], "Did you mean data=data/inner?", id="folder below"),
        pytest.param(two_files, [], "may be its train data", id="two files"),
        pytest.param(nothing, ["dataset=digits"], "not of dataset=digits.", id="not a format of files"),
        pytest.param(nothing, ["run=runs/x"], "data= with run=FOLDER has no effect", id="run"),
    ],
)
def test_what_is_not_clear_is_asked_for_and_nothing_is_written(
    make: Callable[[Path], None] | None,
    words: list[str],
    message: str,
    inside: Path,
    command: Command,
) -> None:
    if make is not None:
        make(inside / "data")
    before = sorted(inside.rglob("*"))
    code, out, err = command("data=data", "model=tiny", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert sorted(inside.rglob("*")) == before


def test_a_question_is_answered_by_naming_the_option(inside: Path) -> None:
    two_formats(inside / "data")
    words = write_out("train", ["data=data", "dataset=table"]).words
    assert "recipe=vqa_qlora" in words
    odd_images(inside / "odd.csv")
    with pytest.raises(UserError, match=r"its columns are: Foto, question, answer. Name it: dataset.col"):
        write_out("train", ["data=odd.csv"])
    assert "recipe=vqa_qlora" in write_out("train", ["data=odd.csv", "dataset.columns.image=Foto"]).words
    odd_table(inside / "odd")
    words = write_out("train", ["data=odd", "dataset.columns.captions=foo"]).words
    assert "recipe=caption_qlora" in words
    foreign_table(inside / "foreign")
    named = [f"dataset.columns.{name}" for name in ("image=Bild", "question=Frage", "answers=Antwort")]
    assert "recipe=vqa_qlora" in write_out("train", ["data=foreign", *named]).words
    box_table(inside / "boxes")
    words = write_out("train", ["data=boxes", "dataset.columns.answers=class"]).words
    assert "recipe=classify_qlora" in words
    two_files(inside / "files")
    words = write_out("train", ["data=files", "dataset=table", "dataset.train=files/more.csv"]).words
    assert {"recipe=vqa_qlora", "dataset.columns.answers=answer"} <= set(words)


def test_a_job_without_data_refuses_the_word() -> None:
    with pytest.raises(UserError, match=r"data= has no effect on `predict`. It is an option of `train`"):
        write_out("predict", ["data=x"])


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("mine/My export (1)", "My_export_1"),
        ("mine/train.jsonl", "mine"),
        ("mine/questions.csv", "questions"),
        ("mine/shards/*.tar", "shards"),
        ("owner/set", "set"),
        ("größe", "größe"),
        ("mine/.", "mine"),
        ("../..", "data"),
        ("...", "data"),
    ],
)
def test_a_run_is_named_after_its_data(place: str, name: str, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/train.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    if place == "../..":
        name = Path(place).resolve().name or name
    assert name_run(place, "train") == name


def test_every_kind_has_a_recipe() -> None:
    assert set(RECIPES) == {kind.name for kind in Kind}
