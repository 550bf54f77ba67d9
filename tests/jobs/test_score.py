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
        (["metric=exact_match"], ["[1]"], "line 1: expected a JSON object, got list"),
        (
            ["metric=exact_match"],
            [{"id": "7", "references": ["x"]}],
            "jsonl line 1): expected `prediction`",
        ),
        (["metric=vqa_accuracy"], [row("x")], "VQA accuracy needs 10 references, but it has 1"),
        (["metric=vqa_accuracy", "metric.convention=offical"], [row("x")], "expected one of [official"),
        (["metric=detection"], [row("x")], "`height` and `width`"),
        (["metric=exact_match"], ["[" * 100_000], "line 1 is nested too deeply"),
        (["metric=exact_match"], [row("x"), "", "1" * 5000], "line 3: not a whole JSON object"),
        (["metric=exact_match"], ["[{", '"id": 1}]'], "line 1: not a whole JSON object"),
        (["metric=exact_match"], ["["], "looks like a JSON list, as COCO's results are"),
        (["metric=exact_match"], ["{", '"id": 1', "}"], "looks like one JSON document over many lines"),
        (["metric=exact_match"], [{"references": ["x"], "prediction": None}], 'missing answer as ""'),
        (["metric=exact_match"], [{"references": ["x"], "prediction": 3}], 'Write it as text: "3"'),
        (["metric=exact_match"], [{"references": ["x", 3], "prediction": "3"}], 'Write it as text: "3"'),
        (["metric=exact_match"], [{"references": "x", "prediction": "3"}], 'Put it in brackets: ["..."]'),
        (
            ["metric=exact_match"],
            [{"answer": "x"}],
            "jsonl line 1: expected `prediction` to be a string, but",
        ),
        (["metric=exact_match"], [row("x" * 1_000_001)], "at most 1,000,000 characters"),
        (["metric=detection"], [{"images": [], "annotations": []}], "(COCO's format"),
        (["metric=detection"], [{"objects": [], "prediction": None}], '"prediction_objects": []'),
        (
            ["metric=detection"],
            [{"objects": [{"label": "x", "bbox": [1, 2, 3, 4]}], "prediction_objects": []}],
            "x_max is x + width",
        ),
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
