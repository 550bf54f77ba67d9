"""Tables of what is taken for what."""

from typing import Any

from sklearn.metrics import confusion_matrix

from finetune.metrics.confusion import INVENTED, MISSED, OTHER, confuse_answers, confuse_labels
from finetune.metrics.matching import Matches


def build(reference: str | list[str], prediction: str) -> dict[str, Any]:
    return {
        "references": [reference] if isinstance(reference, str) else reference,
        "prediction": prediction,
    }


def test_counts_are_those_of_scikit_learn() -> None:
    truths = ["3", "10", "2", "3", "3", "a", "10"]
    predictions = ["3", "2", "2", "2", "3", "10", "10"]
    found = confuse_answers(build(*pair) for pair in zip(truths, predictions, strict=True))
    assert found.truths == found.predictions == ["2", "3", "10", "a"]
    assert found.counts == confusion_matrix(truths, predictions, labels=found.truths).tolist()
    assert found.mistakes == [("10", "2", 1), ("3", "2", 1), ("a", "10", 1)]


def test_an_accepted_answer_is_right_and_otherwise_most_people_are() -> None:
    references = ["two", "two", "2"]
    found = confuse_answers([build(references, "2"), build(references, "3")])
    assert found.mistakes == [("two", "3", 1)]
    assert found.counts[found.truths.index("2")][found.predictions.index("2")] == 1


def test_rare_answers_are_counted_together() -> None:
    rows = [build("a", "a")] * 5 + [build("b", "b")] * 4 + [build("c", "a"), build("d", "e")]
    found = confuse_answers(rows, most=2)
    assert found.truths == found.predictions == ["a", "b", OTHER]
    assert found.counts == [[5, 0, 0], [0, 4, 0], [1, 0, 1]]


def test_missed_and_invented_objects_have_a_place() -> None:
    found = confuse_labels([Matches([("a", "b"), ("b", "b")], ["a"], ["b", "b"], [])])
    assert found.truths == ["a", "b", INVENTED]
    assert found.predictions == ["a", "b", MISSED]
    assert found.counts == [[0, 1, 1], [0, 1, 0], [0, 2, 0]]
    assert found.mistakes[0] == (INVENTED, "b", 2)
