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


def test_several_pictures_are_kept_where_every_row_has_them(
    folder: Path, load: Callable[..., Splits], load_with_fault: Callable[..., Dataset]
) -> None:
    several = {"images": ["a.png", "b.png"], "messages": TURNS}
    rows = load("conversations", write(folder, several)).train
    assert rows[0]["images"] == [str(folder / "a.png"), str(folder / "b.png")]
    assert len(ExampleDataset(rows, TextTask("{prefix}", "suffixes"), "train")[0].images) == 2
    file = write(folder, several, LLAVA)
    load_with_fault("conversations", file, "item 2: expected several images, as the first has, got 1")
    file = write(folder, LLAVA, several)
    load_with_fault("conversations", file, "item 2: expected one image, got 2")


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
        pytest.param({"messages": TURNS}, "item 2: no `image` or `images`", id="no picture"),
        pytest.param({**LLAVA, "image": "c.png"}, "item 2: no image `c.png`", id="missing picture"),
        pytest.param({**LLAVA, "image": "a.png"}, "id `x1/1` is duplicated", id="id twice"),
        pytest.param(turns("user"), "item 2: expected human or user and gpt", id="no answer"),
        pytest.param(turns("user", "user"), "by turns, got: user, user", id="two questions"),
        pytest.param(turns("user", "function_call"), "got: user, function_call", id="unknown role"),
        pytest.param(turns(), "by turns, got: none", id="no turns"),
        pytest.param({"image": "b.png", "messages": [1]}, "turn 1: expected a JSON object", id="no object"),
        pytest.param(
            {"image": "b.png", "messages": [{"content": ""}]}, "no `from` or `role`", id="no role"
        ),
        pytest.param({"image": "b.png", "messages": [URL, TURNS[1]]}, "text and image parts", id="address"),
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
