import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.codecs.mask_vae import MaskVae
from finetune.codecs.objects import ObjectReader
from finetune.codecs.train_mask_vae import save_mask_vae

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
    words = write(row("net", group="a"), "", row("nut", group="b"), row("net", group="a"))
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
        (["metric=exact_match"], [row("x"), '{"id": '], "row 2: not a whole JSON object"),
        (["metric=exact_match"], ["[1]"], "row 1: expected a JSON object, got list"),
        (["metric=exact_match"], [{"id": "7", "references": ["x"]}], "Row `7`: expected `prediction`"),
        (["metric=vqa_accuracy"], [row("x")], "needs 10 references, but `1` has 1"),
        (["metric=vqa_accuracy", "metric.convention=offical"], [row("x")], "expected one of [official"),
        (["metric=detection"], [row("x")], "`height` and `width`"),
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
