import pytest

from finetune.errors import UserError
from finetune.tasks.task import Answer
from finetune.tasks.text import TextTask

BOX = "<loc0000><loc0512><loc0256><loc1023> cat"


def test_lower_case_is_applied_to_suffixes_alone() -> None:
    task = TextTask("Say {x}", "answers", lower=True)
    row = {"x": "THIS", "answers": ["ABC"]}
    assert task.build_text(row) == ("Say THIS", ("abc",))
    assert task.build_target(row) == {"references": ["abc"]}


def test_one_string_or_none_at_all_may_stand_for_the_list() -> None:
    task = TextTask("x", "answer")
    assert task.build_text({"answer": "7"}).suffixes == ("7",)
    assert task.build_text({"answer": None}).suffixes == ()


def test_boxes_written_as_text_are_scored_as_boxes() -> None:
    task = TextTask("{prefix}", "suffixes", objects=True)
    row = {"id": "1", "prefix": "detect cat", "suffixes": [BOX], "width": 1023, "height": 1023}
    target = task.build_target(row)
    box = {"label": "cat", "box_xyxy": [512.0, 0.0, 1023.0, 256.0]}
    assert target == {"width": 1023, "height": 1023, "objects": [box]}
    assert task.read_answer(Answer(BOX, 1.0), target) == {"prediction_objects": [box]}


def test_a_suffix_that_is_not_all_boxes_is_named() -> None:
    row = {"id": "9", "suffixes": [f"{BOX} ; <loc0001> dog"], "width": 10, "height": 10}
    with pytest.raises(UserError, match="Row `9`: its suffix is not all boxes"):
        TextTask("x", "suffixes", objects=True).build_target(row)


def test_boxes_that_are_unknown_are_told_from_a_picture_without_any() -> None:
    task = TextTask("x", "suffixes", objects=True)
    row = {"id": "9", "suffixes": [""], "width": 10, "height": 10}
    assert task.build_target(row)["objects"] == []
    with pytest.raises(UserError, match="Row `9`: column `suffixes` has no suffix"):
        task.build_target({**row, "suffixes": None})


def test_boxes_in_text_need_the_size_of_one_picture() -> None:
    task = TextTask("x", "suffixes", objects=True)
    task.check_columns(["id", "image", "suffixes", "width", "height"])
    with pytest.raises(UserError, match=r"column `width` \(task.objects=true"):
        task.check_columns(["id", "images", "suffixes"])


@pytest.mark.parametrize(
    ("suffixes", "message"),
    [
        ([BOX, f"{BOX} ; <loc0001> dog"], "Row `9`: its suffix is not all boxes"),
        (["<loc0001><loc0900><loc0256><loc0002> cat"], "Row `9`: box 1 of its suffix is inverted"),
        ([f"{BOX} ; <loc0300><loc0001><loc0256><loc0002> cat"], "Row `9`: box 2 of its suffix is inverted"),
    ],
)
def test_every_accepted_suffix_must_be_boxes_that_can_be_meant(suffixes: list[str], message: str) -> None:
    row = {"id": "9", "suffixes": suffixes, "width": 10, "height": 10}
    with pytest.raises(UserError, match=message):
        TextTask("x", "suffixes", objects=True).build_target(row)


@pytest.mark.parametrize("value", [7, 1.5, {"a": 1}])
def test_a_column_that_holds_no_texts_is_named(value: object) -> None:
    with pytest.raises(UserError, match="Row `1`: expected column `count` to be a text or a list"):
        TextTask("x", "count").build_text({"id": "1", "count": value})
