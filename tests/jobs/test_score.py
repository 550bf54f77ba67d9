import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.cli import main
from finetune.codecs.mask_vae import MaskVae
from finetune.codecs.objects import ObjectReader
from finetune.codecs.train_mask_vae import save_mask_vae
from tests.conftest import REPOSITORY

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    def run(*rows: Any) -> str:
        file = tmp_path / "predictions.jsonl"
        file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
        return f"predictions={file}"

    return run


def row(prediction: str, reference: str = "net", **more: Any) -> dict[str, Any]:
    return {"id": "1", "prediction": prediction, "references": [reference], **more}


def test_one_json_object_comes_out_with_the_groups(command: Command, write: Callable[..., str]) -> None:
    words = write(row("net", group="a"), "", row("nut", group="b", id="2"), row("net", group="a", id="3"))
    code, out, err = command("score", "metric=exact_match", words)
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "exact_match": pytest.approx(200 / 3),
        "n": 3,
        "by_group": {"a": {"exact_match": 100, "n": 2}, "b": {"exact_match": 0, "n": 1}},
    }


def test_a_pipe_is_read_as_a_file_is(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (json.dumps(row("net")) + "\n").encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    code, out, _ = command("score", "metric=anls", "predictions=-")
    assert code == 0
    assert json.loads(out) == {"anls": 1.0, "n": 1}


BOXES = [
    {"label": "cat", "box_xyxy": [0, 0, 50, 50], "score": 0.9},
    {"label": "dog", "box_xyxy": [50, 50, 100, 100], "score": 0.8},
]


def test_boxes_are_read_from_the_text_where_the_row_brings_none(
    command: Command, write: Callable[..., str]
) -> None:
    text = "<loc0000><loc0000><loc0512><loc0512> cat ; <loc0512><loc0512><loc1023><loc1023> dog"
    whole = {"id": "1", "width": 100, "height": 100, "objects": BOXES, "confidence": 0.5}
    _, given, _ = command("score", "metric=detection", write({**whole, "prediction_objects": BOXES}))
    _, read, _ = command("score", "metric=detection", write({**whole, "prediction": text}))
    assert json.loads(given)["ap"] == pytest.approx(1.0)
    assert json.loads(read)["ap"] == pytest.approx(1.0)
    _, wrong, _ = command(
        "score", "metric=referring", write({**whole, "objects": BOXES[:1], "prediction": text})
    )
    assert json.loads(wrong)["accuracy_50"] == 100


def test_an_official_reading_reads_the_text_again_where_it_can(
    command: Command, write: Callable[..., str], tmp_path: Path
) -> None:
    vae = MaskVae()
    vae.get_parameter("decoder.12.bias").data.fill_(100)  # every mask fills its box
    save_mask_vae(vae, tmp_path / "vae.npz")
    text = "<loc0000><loc0000><loc1023><loc1023>" + "<seg005>" * 16
    (truth,) = ObjectReader(mask_vae=str(tmp_path / "vae.npz")).read(text, (20, 30))
    whole = {"width": 30, "height": 20, "objects": [truth]}
    rows = write(
        {**whole, "id": "1", "group": "a", "prediction": text},
        {**whole, "id": "2", "group": "b", "prediction": f"{text}<seg001>", "prediction_objects": []},
        {**whole, "id": "3", "group": "c", "prediction": f" {text}", "prediction_objects": [truth]},
        {**whole, "id": "4", "group": "d", "prediction_objects": [truth]},
    )
    weights = f"metric.mask_vae={tmp_path / 'vae.npz'}"
    for reading, expected in (("lenient", [100, 0, 100, 100]), ("official", [100, 100, 0, 100])):
        _, out, _ = command("score", "metric=segmentation", weights, f"metric.reading={reading}", rows)
        groups = json.loads(out)["by_group"]
        assert [groups[name]["mean_iou"] for name in "abcd"] == expected
    code, _, err = command("score", "metric=segmentation", "metric.reading=official", rows)
    assert code == 2
    assert "Row `1`" in err
    assert "metric.mask_vae=" in err


@pytest.mark.parametrize(
    ("words", "rows", "message"),
    [
        (["metric=exact_match", "predictions=nowhere.jsonl"], None, "No file nowhere.jsonl"),
        (["metric=exact_match"], None, "Which predictions?"),
        (["metric=exact_math"], [row("x")], "Did you mean `exact_match`"),
        (["metric=exact_match"], [], "is empty"),
        (["metric=exact_match"], [row("x"), '{"id": '], "line 2: not a whole JSON object"),
        (["metric=exact_match"], ["[1]"], "item 1: expected a JSON object, got int"),
        (["metric=exact_match"], ["["], "ends in the middle"),
        (["metric=exact_match"], [f"[{json.dumps(row('x'))}, {{}}]"], "item 2: expected `prediction`"),
        (["metric=exact_match"], [{"references": [None], "prediction": "3"}], "a string or a list of them"),
        (["metric=exact_match"], [{"references": ["x"], "prediction": True}], "but got True"),
        (
            ["metric=detection"],
            [{"objects": [{"label": "x", "bbox": [1, 2, 3]}], "prediction_objects": []}],
            "`bbox` to be COCO's x, y, width, height in pixels",
        ),
        (
            ["metric=exact_match"],
            [{"id": "7", "references": ["x"]}],
            "jsonl line 1): expected `prediction`",
        ),
        (["metric=vqa_accuracy"], [row("x")], "VQA accuracy needs 10 references, but it has 1"),
        (["metric=vqa_accuracy", "metric.convention=offical"], [row("x")], "expected one of official"),
        (["metric=detection"], [row("x")], "`height` and `width`"),
        (["metric=exact_match"], ["[" * 100_000], "line 1: nested too deeply"),
        (["metric=exact_match"], [row("x"), "", "1" * 5000], "line 3: not a whole JSON object"),
        (["metric=exact_match"], ["{", '"id": 1', "}"], "looks like one JSON document over many lines"),
        (
            ["metric=exact_match"],
            [{"answer": "x"}],
            "jsonl line 1: expected `prediction` to be a string, but",
        ),
        (["metric=exact_match"], [row("x" * 1_000_001)], "at most 1,000,000 characters"),
        (["metric=detection"], [{"images": [], "annotations": []}], "ground_truth=FILE"),
        (
            ["metric=segmentation"],
            [{"objects": [], "prediction": "<seg001>", "height": 3, "width": 3}],
            "metric.mask_vae=",
        ),
        (
            ["metric=segmentation"],
            [{"objects": [], "prediction": "x", "height": 10**6, "width": 10**6}],
            "at most 268,435,456 pixels",
        ),
    ],
)
def test_what_cannot_be_scored_is_one_message(
    command: Command, write: Callable[..., str], words: list[str], rows: list[Any] | None, message: str
) -> None:
    given = [] if rows is None else [write(*rows)]
    code, out, err = command("score", *words, *given)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_files_that_are_no_rows_are_one_message(command: Command, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    (tmp_path / "blank").write_text("\n \n")
    (tmp_path / "latin").write_bytes('{"prediction": "café"}'.encode("latin-1"))
    (tmp_path / "utf16").write_text('{"prediction": "x"}\n', encoding="utf-16")
    (tmp_path / "long").write_bytes(b'{"id": "' + b"x" * (33 << 20))
    for name, message in (
        ("pipe", "predictions=- reads a pipe"),
        ("empty", "is empty. Expected JSON lines"),
        ("blank", "is empty"),
        ("latin", "line 1 is not UTF-8"),
        ("utf16", "line 1 is not UTF-8"),
        ("long", "line 1 is longer than 32 MiB"),
        (".", "is a folder"),
    ):
        code, out, err = command("score", "metric=exact_match", f"predictions={tmp_path / name}")
        assert (code, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1


def test_a_byte_order_mark_and_carriage_returns_are_read_over(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "excel.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(row("net")).encode() + b"\r\n\r\n")
    code, out, err = command("score", "metric=exact_match", f"predictions={file}")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"exact_match": 100, "n": 1}


def detection_row(label: str = "cat", scale: float = 1.0, **more: Any) -> dict[str, Any]:
    box = [side * scale for side in (10.0, 20.0, 60.0, 90.0)]
    predicted = [{"label": label, "box_xyxy": box, "score": 0.5}]
    objects = [{"label": "cat", "box_xyxy": [10, 20, 60, 90], "area": 900}]
    return {"width": 100, "height": 100, "objects": objects, "prediction_objects": predicted, **more}


def test_a_score_that_cannot_be_meant_is_not_printed(command: Command, write: Callable[..., str]) -> None:
    words = write(detection_row(scale=0.01))
    code, out, err = command("score", "metric=detection", words)
    assert (code, out) == (2, "")
    assert "1 of 1 boxes in `prediction_objects` lie within 0 and 1" in err
    assert "jsonl line 1: [0.1, 0.2, 0.6, 0.9]" in err
    code, _, err = command("score", "metric=detection", write(detection_row("Cat")))
    assert code == 2
    assert "`Cat` (did you mean `cat`?)" in err


def test_a_score_that_may_be_meant_comes_with_one_warning(
    command: Command, write: Callable[..., str]
) -> None:
    words = write(detection_row(id="a\x1b[31m"), detection_row(id="a\x1b[31m"))
    code, out, err = command("score", "metric=detection", words)
    assert code == 0
    assert json.loads(out)["ap"] == pytest.approx(1)
    assert err.startswith("warning: 1 rows repeat an id")
    assert "a\\x1b[31m" in err
    assert err.count("\n") == 1


def test_texts_are_scored_without_importing_torch() -> None:
    code = "import finetune.jobs.score, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0


def test_a_reader_that_has_gone_is_no_mistake(
    write: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main(["score", "metric=exact_match", write(row("net"))]) == 0
    assert capsys.readouterr().err == ""


def test_more_metrics_add_their_fields_after_the_main_ones(
    command: Command, write: Callable[..., str]
) -> None:
    rows = write(row("neat"), row("net", id="2"))
    words = ["metric=exact_match", "metrics=[edit,anls]", "metrics.edit.strip=false", rows]
    code, out, _ = command("score", *words)
    assert code == 0
    assert list(json.loads(out)) == ["exact_match", "cer", "wer", "anls", "n"]
    assert json.loads(out)["anls"] == pytest.approx((0.75 + 1) / 2)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ("metrics=[anl]", "No choice of `metric` `anl`. Did you mean `anls`?"),
        ("metrics={anls: 1}", "expected names in brackets, such as metrics=[exact_match,anls]"),
        ("metrics=[anls] metrics.anls.conventoin=rrc", "Did you mean `convention`?"),
    ],
)
def test_more_metrics_that_cannot_be_are_named(
    command: Command, write: Callable[..., str], metrics: str, message: str
) -> None:
    words = [metrics] if "{" in metrics else metrics.split()
    code, out, err = command("score", "metric=exact_match", *words, write(row("net")))
    assert (code, out) == (2, "")
    assert message in err


def test_what_other_programs_write_is_read(command: Command, tmp_path: Path) -> None:
    """A JSON list over several lines, a reference without a list, numbers, and null for no answer."""
    file = tmp_path / "predictions.json"
    rows = [
        {"id": 1, "prediction": 3, "references": "3"},
        {"id": 2, "prediction": None, "references": ["x"]},
        {"id": 3, "prediction": "2.5", "references": 2.5},
        {"id": 4, "prediction": "x", "references": ["y", 4]},
    ]
    file.write_text("\ufeff\n" + json.dumps(rows, indent=2), encoding="utf-8")
    code, out, err = command("score", "metric=exact_match", f"predictions={file}")
    assert (code, json.loads(out)) == (0, {"exact_match": 50.0, "n": 4})
    assert (
        f"note: 1 predictions are null and are scored as empty answers; the first is row `2` ({file} item 2"
        in err
    )


def test_boxes_may_be_written_as_coco_writes_them(command: Command, write: Callable[..., str]) -> None:
    scene = [{"label": "cat", "bbox": [10, 20, 30, 40], "score": 0.5}]
    rows = write({"id": "1", "width": 99, "height": 99, "objects": scene, "prediction_objects": scene})
    code, out, _ = command("score", "metric=detection", rows)
    assert (code, json.loads(out)["ap"]) == (0, pytest.approx(1.0))


TRUTH = {
    "images": [
        {"id": 7, "file_name": "a.jpg", "width": 100, "height": 80},
        {"id": 8, "file_name": "b.jpg", "width": 100, "height": 80},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0},
        {"id": 2, "image_id": 8, "category_id": 4, "bbox": [0, 0, 50, 40], "area": 2000, "iscrowd": 0},
    ],
    "categories": [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}],
}
RESULTS = [
    {"image_id": 7, "category_id": 3, "bbox": [10, 10, 20, 20], "score": 0.9},
    {"image_id": 8, "category_id": 3, "bbox": [0, 0, 50, 40], "score": 0.8},
    {"image_id": 8, "category_id": 4, "bbox": [5, 5, 50, 40], "score": 0.7},
]


@pytest.fixture
def coco(tmp_path: Path) -> Callable[..., list[str]]:
    def write_files(results: Any = RESULTS, truth: Any = TRUTH, indent: int | None = None) -> list[str]:
        (tmp_path / "truth.json").write_text(json.dumps(truth, indent=indent))
        (tmp_path / "results.json").write_text(json.dumps(results, indent=indent))
        return [f"predictions={tmp_path / 'results.json'}", f"ground_truth={tmp_path / 'truth.json'}"]

    return write_files


@pytest.mark.parametrize("indent", [pytest.param(None, id="one-line"), pytest.param(1, id="many-lines")])
def test_coco_results_score_as_pycocotools_scores_them(
    command: Command, coco: Callable[..., list[str]], indent: int | None, tmp_path: Path
) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    code, out, err = command("score", "metric=detection", "metric.score=confidence", *coco(indent=indent))
    assert (code, err) == (0, "")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "truth.json"))
        judge = COCOeval(truth, truth.loadRes(str(tmp_path / "results.json")), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    fields = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar_1", "ar_10", "ar_100")
    assert [json.loads(out)[field] for field in fields] == pytest.approx(judge.stats[:9].tolist())
    assert json.loads(out)["n"] == 2


def test_masks_of_coco_are_compared_with_or_without_their_boxes(
    command: Command, coco: Callable[..., list[str]]
) -> None:
    square = [[10, 10, 30, 10, 30, 30, 10, 30]]
    truth = {**TRUTH, "annotations": [{**TRUTH["annotations"][0], "segmentation": square}]}
    truth["images"] = truth["images"][:1]
    result = {"image_id": 7, "category_id": 3, "segmentation": square, "score": 0.9}
    code, out, err = command("score", "metric=segmentation", *coco([result], truth))
    assert (code, err) == (0, "")
    assert json.loads(out)["mean_iou"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("results", "message"),
    [
        pytest.param([{**RESULTS[0], "image_id": 99}], "item 1: there is no image 99 in", id="image"),
        pytest.param([{**RESULTS[0], "category_id": 9}], "3 (cat), 4 (dog)", id="category"),
        pytest.param([RESULTS[0], {"image_id": 7}], "item 2: no `category_id`", id="key"),
        pytest.param([{**RESULTS[0], "bbox": [1, 2, 3]}], "item 1: ", id="box"),
        pytest.param([{**RESULTS[0], "score": "high"}], "`score`: expected a number", id="score"),
        pytest.param({"annotations": []}, "no array at its top", id="not-a-list"),
    ],
)
def test_results_that_do_not_fit_their_ground_truth_are_named(
    command: Command, coco: Callable[..., list[str]], results: Any, message: str
) -> None:
    code, out, err = command("score", "metric=detection", *coco(results))
    assert (code, out) == (2, "")
    assert message in err


def test_texts_are_joined_with_their_ground_truth_by_id(
    command: Command, write: Callable[..., str], tmp_path: Path
) -> None:
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps([{"id": n, "references": [str(n)], "group": "g"} for n in range(4)]))
    words = [write({"id": "2", "prediction": "2"}, {"id": 1, "prediction": "7"}), f"ground_truth={truth}"]
    code, out, err = command("score", "metric=exact_match", *words)
    assert (code, json.loads(out)["exact_match"], json.loads(out)["n"]) == (0, 25.0, 4)
    assert "2 predictions are null" in err
    for rows, message in (
        ([{"id": 9, "prediction": "x"}], "has no row of that id (1 such predictions)"),
        ([{"id": 1, "prediction": "x"}, {"id": "1", "prediction": "y"}], "line 2): its id is repeated"),
        ([{"prediction": "x"}], "line 1: expected an `id`"),
    ):
        code, _, err = command("score", "metric=exact_match", write(*rows), words[1])
        assert code == 2
        assert message in err
