import pytest

from finetune.errors import UserError
from finetune.metrics.choice import Choice, ChoiceReading, read_choice


@pytest.mark.parametrize(
    ("text", "lenient", "letter", "sentence"),
    [
        ("B", "B", "B", None),
        (" b\n", "B", "B", None),
        ("B.", "B", None, None),
        ("(B)", "B", None, None),
        ("B. Because it floats.", "B", None, None),
        ("The answer is B.", "B", None, "B"),
        ("the answer is b. Therefore the answer is c.", "B", None, "B"),
        ("  The answer is B. Not the answer is C.", "B", None, None),
        ("I think the answer is b. Therefore the answer is c.", None, None, None),
        ("It floats. The answer is B.", "B", None, None),
        ("The answer is B", "B", None, None),
        ("The answer is (B)", "B", None, None),
        ("The answer is bread.", None, None, None),
        ("Bread", None, None, None),
        ("a boat", None, None, None),
        ("B C", None, None, None),
        ("7", None, None, None),
        ("", None, None, None),
    ],
)
def test_each_reading_takes_its_own_forms(
    text: str, lenient: str | None, letter: str | None, sentence: str | None
) -> None:
    assert read_choice(text) == lenient
    assert read_choice(text, ChoiceReading.letter) == letter
    assert read_choice(text, ChoiceReading.sentence) == sentence


def test_what_names_no_choice_is_wrong_and_counted() -> None:
    rows = [
        {"prediction": prediction, "references": ["The answer is C."]}
        for prediction in ("c", "The answer is C.", "A", "I do not know")
    ]
    assert Choice().compute(rows) == {"accuracy": 50, "unreadable": 25}
    assert Choice(ChoiceReading.letter).compute(rows) == {"accuracy": 25, "unreadable": 50}
    assert Choice(ChoiceReading.sentence).compute(rows) == {"accuracy": 25, "unreadable": 75}


def test_an_unknown_reading_is_refused() -> None:
    with pytest.raises(UserError, match=r"metric.reading=letters is not known. Did you mean `letter`"):
        Choice(reading="letters")  # type: ignore[arg-type]


def test_a_reference_that_names_no_choice_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"Row `s1`: expected the reference to name a choice.*'water'"):
        Choice().score({"id": "s1", "prediction": "A", "references": ["water"]})
