import pytest

from finetune.data.objects import build_object, name_class
from finetune.errors import UserError


@pytest.mark.parametrize(
    ("box", "layout", "relative"),
    [
        ([2, 1, 8, 5], "xyxy", False),
        ([2, 1, 6, 4], "xywh", False),
        ([5, 3, 6, 4], "cxcywh", False),
        ([1, 2, 5, 8], "yxyx", False),
        ([0.25, 0.3, 0.3, 0.4], "cxcywh", True),
        ([0.1, 0.1, 0.4, 0.5], "xyxy", True),
    ],
)
def test_every_layout_of_a_box_gives_the_same_corners(
    box: list[float], layout: str, relative: bool
) -> None:
    found = build_object("cat", box, (10, 20), "here", layout=layout, relative=relative)
    assert found["box_xyxy"] == pytest.approx([2, 1, 8, 5])


@pytest.mark.parametrize(
    ("box", "layout", "message"),
    [
        ([1, 2, 3], "xywh", "here: object `cat`: Expected a box of four numbers, but got"),
        (None, "xyxy", "Expected a box of four numbers, but got None"),
        (["a", 0, 1, 1], "xyxy", "Expected a box of four numbers, but got"),
        ([0, 0, 1, 1], "xyhw", "layout=xyhw: expected xywh, xyxy, cxcywh or yxyx"),
    ],
)
def test_what_is_no_box_is_named_with_its_place(box: list[float], layout: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_object("cat", box, (10, 20), "here", layout=layout)


def test_a_class_that_is_not_in_the_list_is_told_with_those_that_are() -> None:
    assert name_class(3, {3: "cat"}, "here") == "cat"
    with pytest.raises(UserError, match=r"here: there is no category 4 in the list. It has: 3 \(cat\)."):
        name_class(4, {3: "cat"}, "here", "category")
