import random
from typing import Any

import pytest

from finetune.errors import UserError
from finetune.tasks.choice import ChoiceTask

ROW = {"id": "7", "question": "Which?", "hint": "none", "choices": ["red", "green", "blue"], "answer": 2}
LETTERS = ChoiceTask("{question} {choices}")


def test_choices_get_letters_and_the_answer_is_the_right_ones() -> None:
    assert LETTERS.build_text(ROW) == ("Which? (A) red, (B) green, (C) blue", ("C",))


def test_the_answer_may_be_a_sentence_or_the_choice_itself() -> None:
    task = ChoiceTask("Q: {question}\n{choices}", suffix="The answer is {letter}.")
    assert task.build_text(ROW).suffixes == ("The answer is C.",)
    words = ChoiceTask("{question} choose from: {choices}", "{text}", " \t ", "{text}")
    assert words.build_text(ROW) == ("Which? choose from: red \t green \t blue", ("blue",))


def test_shuffled_choices_keep_the_right_answer_and_evaluation_keeps_their_order() -> None:
    task = ChoiceTask("{choices}", "{letter}={text}", " ", "{letter}", shuffle=True)
    seen = set()
    for seed in range(20):
        prefix, (letter,) = task.build_text(ROW, random.Random(seed))
        assert f"{letter}=blue" in prefix.split()
        seen.add(prefix)
    assert len(seen) == 6
    assert task.build_text(ROW).suffixes == ("C",)
    assert task.build_target(ROW) == {"references": ["C"]}


def test_a_question_without_its_answer_has_no_suffix() -> None:
    assert LETTERS.build_text({**ROW, "answer": None}).suffixes == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": 3}, "answer 3 is none of its 3 choices"),
        ({"answer": -1}, "answer -1 is none of its 3 choices"),
        ({"choices": ["one"], "answer": 0}, "expected 2 to 26 choices, got 1"),
        ({"choices": ["x"] * 27}, "got 27"),
    ],
)
def test_an_answer_that_is_no_choice_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LETTERS.build_text({**ROW, **change})


def test_a_missing_column_is_named_with_the_option() -> None:
    with pytest.raises(UserError, match=r"column `hint` \(task.prompt"):
        ChoiceTask("{hint} {choices}").check_columns(["question", "choices", "answer"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"choice": "({leter}) {text}"}, r"task.choice='.*' has no value for {leter}; it may use {letter}"),
        ({"suffix": "{answer}"}, r"task.suffix='{answer}' has no value for {answer}"),
    ],
)
def test_a_name_that_a_choice_does_not_have_is_refused_at_once(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        ChoiceTask("{choices}", **options).check_columns(["choices", "answer"])


@pytest.mark.parametrize("answer", ["B", 1.5, ["x"]])
def test_an_answer_that_is_no_index_is_named(answer: object) -> None:
    with pytest.raises(UserError, match="Row `7`: expected column `answer` to be the number"):
        LETTERS.build_text({**ROW, "answer": answer})
