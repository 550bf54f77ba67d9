import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from finetune.data.examples.dataset import ExampleDataset
from finetune.data.rows import Splits
from finetune.errors import UserError
from finetune.tasks.text import TextTask

LLAVA = {
    "id": "x1",
    "image": "a.png",
    "conversations": [
        {"from": "human", "value": "<image>\nWhat is it?"},
        {"from": "gpt", "value": "A cat."},
        {"from": "human", "value": "Which colour?"},
        {"from": "gpt", "value": "Red."},
    ],
}
TURNS = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A cat."}]
PARTS: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
]
NAMED = [
    {"role": "user", "content": [{"type": "image", "image": "a.png"}, PARTS[0]["content"][1]]},
    TURNS[1],
]
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.fixture
def folder(pictures: Callable[..., Path]) -> Path:
    return pictures("a.png", "b.png")


def write(folder: Path, *records: Any, lines: bool = False) -> Path:
    text = "\n".join(map(json.dumps, records)) if lines else json.dumps(records, indent=1)
    (folder / "train.json").write_text(text)
    return folder / "train.json"


@pytest.mark.parametrize("lines", [False, True])
def test_each_question_and_answer_is_a_row(folder: Path, load: Callable[..., Splits], lines: bool) -> None:
    first, second = load("conversations", write(folder, LLAVA, lines=lines)).train
    image = {"group": None, "image": str(folder / "a.png"), "width": 20, "height": 10}
    assert first == {"id": "x1/1", **image, "prefix": "What is it?", "suffixes": ["A cat."]}
    assert second == {"id": "x1/2", **image, "prefix": "Which colour?", "suffixes": ["Red."]}


@pytest.mark.parametrize(
    "record",
    [
        pytest.param({"images": ["a.png"], "messages": TURNS}, id="messages"),
        pytest.param({"images": ["a.png"], "messages": PARTS}, id="parts"),
        pytest.param({"messages": NAMED}, id="picture in a part"),
        pytest.param({"image": None, "images": ["a.png"], "conversations": TURNS}, id="conversations"),
    ],
)
def test_messages_are_read_in_each_of_their_forms(
    folder: Path, load: Callable[..., Splits], record: dict[str, Any]
) -> None:
    (row,) = load("conversations", write(folder, record)).train
    assert (row["id"], row["image"]) == ("1/1", str(folder / "a.png"))
    assert (row["prefix"], row["suffixes"]) == ("What?", ["A cat."])


def test_conversations_may_differ_in_their_number_of_pictures(
    folder: Path, load: Callable[..., Splits]
) -> None:
    several = {"images": ["a.png", "b.png"], "messages": TURNS}
    rows = load("conversations", write(folder, {**LLAVA, "id": "x2"}, several)).train
    assert [len(names) for names in rows["images"]] == [1, 1, 2]
    assert rows[2]["images"] == [str(folder / "a.png"), str(folder / "b.png")]
    assert len(ExampleDataset(rows, TextTask("{prefix}", "suffixes"), "train")[2].images) == 2


def test_a_question_has_the_pictures_up_to_it(folder: Path, load: Callable[..., Splits]) -> None:
    turns = [
        {"role": "user", "content": "<image>What?"},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "<image>And this?"},
        {"role": "assistant", "content": "A dog."},
    ]
    rows = load("conversations", write(folder, {"images": ["a.png", "b.png"], "messages": turns})).train
    assert [len(names) for names in rows["images"]] == [1, 2]


def test_conversations_without_a_picture_are_left_out_and_listed(
    folder: Path, load: Callable[..., Splits], load_with_fault: Callable[..., Dataset]
) -> None:
    file = write(folder, LLAVA, {"messages": TURNS})
    splits = load("conversations", file)
    assert splits.train["id"][:] == ["x1/1", "x1/2"]
    assert splits.skipped[0] == f"{file} item 2: it has no image (dataset.skip_text_only)."
    load_with_fault("conversations", file, "item 2: no `image` or `images`", skip_text_only=False)


def test_ids_that_repeat_are_numbered_and_counted(
    folder: Path,
    load: Callable[..., Splits],
    reported: Callable[[], str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "finetune")
    file = write(folder, LLAVA, {**LLAVA, "image": "b.png"})
    assert load("conversations", file).train["id"][:] == ["x1/1", "x1/2", "x1#2/1", "x1#2/2"]
    assert "numbered (`id#2`): 1; the first: " in reported()


@pytest.mark.parametrize(
    "record",
    [
        pytest.param({"query": "What?", "response": "A cat.", "images": ["a.png"]}, id="query"),
        pytest.param(
            {"instruction": "<image>What?", "input": "", "output": "A cat.", "image": "a.png"}, id="alpaca"
        ),
        pytest.param(
            {"conversation": [{"human": "What?", "assistant": "A cat."}], "images": ["a.png"]}, id="pairs"
        ),
        pytest.param({"images": [{"bytes": None, "path": "a.png"}], "messages": TURNS}, id="paths"),
    ],
)
def test_single_questions_are_read(
    folder: Path, load: Callable[..., Splits], record: dict[str, Any]
) -> None:
    (row,) = load("conversations", write(folder, record, lines=True)).train
    assert (row["id"], row["prefix"], row["suffixes"]) == ("1/1", "What?", ["A cat."])


def test_turns_of_history_come_first(folder: Path, load: Callable[..., Splits]) -> None:
    record = {"query": "Red?", "response": "Yes.", "history": [["What?", "A cat."]], "images": ["a.png"]}
    assert load("conversations", write(folder, record)).train["prefix"][:] == ["What?", "Red?"]


def grounded(answer: str, boxes: list[Any], **objects: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": "<image>Find it"}, {"role": "assistant", "content": answer}]
    return {"images": ["a.png"], "messages": turns, "objects": {"bbox": boxes, **objects}}


LOC = "<loc0102><loc0102><loc0512><loc0512>"


@pytest.mark.parametrize(
    ("record", "answer"),
    [
        pytest.param(grounded("<bbox>", [[2, 1, 10, 5]]), LOC, id="pixels"),
        pytest.param(grounded("<bbox>", [[0.1, 0.1, 0.5, 0.5]], bbox_type="norm1"), LOC, id="shares"),
        pytest.param(
            grounded("<bbox>", [[100, 100, 500, 500]], bbox_type="norm1000", image_id=[0]),
            "<loc0102><loc0102><loc0512><loc0512>",
            id="thousandths",
        ),
        pytest.param(
            grounded("<ref-object><bbox>, <ref-object><bbox>", [[2, 1, 10, 5]] * 2, ref=["cat", "dog"]),
            f"{LOC} cat ; {LOC} dog",
            id="labels",
        ),
        pytest.param(grounded("<bbox><bbox>", [[2, 1, 10, 5]] * 2), f"{LOC} ; {LOC}", id="several"),
        pytest.param(
            grounded("A <ref-object><bbox> and a <ref-object>", [[2, 1, 10, 5]], ref=["cat", "dog"]),
            f"A {LOC} cat and a dog",
            id="text",
        ),
    ],
)
def test_objects_are_written_as_paligemma_writes_them(
    folder: Path, load: Callable[..., Splits], record: dict[str, Any], answer: str
) -> None:
    (row,) = load("conversations", write(folder, record)).train
    assert (row["prefix"], row["suffixes"]) == ("Find it", [answer])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        pytest.param(
            grounded("<bbox>", [[1, 2]]), "box 1: expected x_min, y_min, x_max, y_max", id="point"
        ),
        pytest.param(grounded("<bbox>", []), "0 in `bbox` for 1 <bbox> in the turns", id="too few"),
        pytest.param(grounded("no", [[2, 1, 10, 5]]), "1 in `bbox` for 0 <bbox> in the turns", id="unused"),
        pytest.param(grounded("<bbox>", [[10, 1, 2, 5]]), "is it inverted", id="inverted"),
        pytest.param(
            grounded("<bbox>", [[2, 1, 10, 5]], bbox_type="x"), "`bbox_type` must be real", id="type"
        ),
        pytest.param(
            grounded("<bbox>", [[2, 1, 10, 5]], image_id=[1]), "there is no image 1 among 1", id="image"
        ),
    ],
)
def test_objects_that_do_not_fit_are_named(
    folder: Path, load_with_fault: Callable[..., Dataset], record: dict[str, Any], message: str
) -> None:
    load_with_fault("conversations", write(folder, LLAVA, record), message)


def test_a_system_turn_is_a_fault_unless_it_is_to_be_ignored(
    folder: Path, load: Callable[..., Splits], load_with_fault: Callable[..., Dataset]
) -> None:
    beside = {"images": ["a.png"], "messages": TURNS, "system": "Be brief."}
    file = write(folder, LLAVA, {"image": "b.png", "messages": [SYSTEM, *TURNS]})
    message = "item 2: it has a system turn, for which PaliGemma has no place"
    assert len(load_with_fault("conversations", file, message)) == 2
    assert len(load("conversations", file, ignore_system=True).train) == 3
    load_with_fault("conversations", write(folder, LLAVA, beside), message)


def turns(*roles: str) -> dict[str, Any]:
    return {"image": "b.png", "messages": [{"role": role, "content": "x"} for role in roles]}


URL = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        pytest.param({**LLAVA, "image": "c.png"}, "item 2: no image `c.png`", id="missing picture"),
        pytest.param(turns("user"), "item 2: expected human or user and gpt", id="no answer"),
        pytest.param(turns("user", "user"), "by turns, got: user, user", id="two questions"),
        pytest.param(turns("user", "function_call"), "got: user, function_call", id="unknown role"),
        pytest.param(turns(), "by turns, got: none", id="no turns"),
        pytest.param({"image": "b.png", "messages": [1]}, "turn 1: expected a JSON object", id="no object"),
        pytest.param(
            {"image": "b.png", "messages": [{"content": ""}]}, "no `from` or `role`", id="no role"
        ),
        pytest.param({"messages": [URL, TURNS[1]]}, "Nothing is fetched", id="address"),
        pytest.param(
            {"image": "b.png", "messages": [{"role": "user", "content": "<image><image>"}, TURNS[1]]},
            "item 2: 2 <image> for 1 images",
            id="placeholders",
        ),
        pytest.param("text", "item 2: expected a JSON object, got str", id="no conversation"),
    ],
)
def test_a_bad_conversation_is_named_or_left_out(
    folder: Path, load: Callable[..., Splits], bad: Any, message: str
) -> None:
    file = write(folder, LLAVA, bad)
    with pytest.raises(UserError) as error:
        load("conversations", file)
    assert message in str(error.value)
    splits = load("conversations", file, on_error="skip")
    assert splits.train["id"][:] == ["x1/1", "x1/2"]
    assert message in splits.skipped[0]


def test_a_list_that_ends_in_the_middle_is_an_error(folder: Path, load: Callable[..., Splits]) -> None:
    file = write(folder, LLAVA)
    file.write_text(file.read_text()[:-20])
    with pytest.raises(UserError, match="ends in the middle of the array"):
        load("conversations", file)
