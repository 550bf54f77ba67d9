"""Which predicted object is which true one."""

from typing import Any

import pytest

from finetune.metrics.matching import match_objects


def build(label: str, x: float, score: float | None = None, **more: Any) -> dict[str, Any]:
    scored = {} if score is None else {"score": score}
    return {"label": label, "box_xyxy": [x, 0, x + 10, 10], **scored, **more}


def match(objects: list[dict[str, Any]], predictions: list[dict[str, Any]]) -> Any:
    return match_objects({"id": "1", "objects": objects, "prediction_objects": predictions})


def test_objects_at_one_place_are_paired_whatever_their_labels() -> None:
    found = match(
        [build("cat", 0), build("dog", 100), build("cup", 200)],
        [build("cat", 1, 0.9), build("cat", 101, 0.8), build("cup", 300, 0.1)],
    )
    assert found.found == [("cat", "cat"), ("dog", "cat")]
    assert (found.missed, found.invented) == (["cup"], ["cup"])
    assert found.scored == [(0.9, True), (0.8, False), (0.1, False)]
    assert found.f1 == pytest.approx(2 / 6)


def test_the_larger_overlap_wins_and_of_equal_ones_the_same_label() -> None:
    assert match([build("a", 0)], [build("a", 3), build("b", 1)]).found == [("a", "b")]
    assert match([build("a", 0)], [build("b", 1), build("a", 1)]).found == [("a", "a")]


def test_a_second_box_for_one_object_is_invented() -> None:
    found = match([build("a", 0)], [build("a", 0, 0.9), build("a", 0, 0.8)])
    assert (found.found, found.invented) == ([("a", "a")], ["a"])
    assert [right for _, right in found.scored] == [True, False]


def test_crowds_and_what_is_predicted_on_them_count_neither_way() -> None:
    found = match([build("a", 0, iscrowd=1), build("a", 100)], [build("a", 1, 0.5), build("a", 100, 0.6)])
    assert (found.found, found.missed, found.invented) == ([("a", "a")], [], [])
    assert found.scored == [(0.6, True)]


@pytest.mark.parametrize(
    ("objects", "predictions", "f1"),
    [
        ([], [], 1.0),
        ([build("a", 0)], [], 0.0),
        ([], [build("a", 0)], 0.0),
        ([build("a", 0)], [build("a", 4)], 0.0),
    ],
)
def test_f1_of_little(objects: Any, predictions: Any, f1: float) -> None:
    assert match(objects, predictions).f1 == f1
