from typing import Any

import pytest

from finetune.errors import UserError
from finetune.example import AnswerForm
from finetune.tasks.choice import ChoiceTask
from finetune.tasks.grammar import Grammar, build_form, can_write
from finetune.tasks.mixture import PART, MixedTask
from finetune.tasks.objects import ObjectsOptions
from finetune.tasks.text import TextTask

CATS = AnswerForm((" cat", " black cat"), box=True)
DETECT = ObjectsOptions(labels=["cat", "black cat"])


@pytest.mark.parametrize(
    ("task", "row", "prefix", "form"),
    [
        pytest.param(DETECT.build(), {}, "detect cat ; black cat", CATS, id="all classes"),
        pytest.param(DETECT.build(), {}, "detect cat", AnswerForm((" cat",), box=True), id="one class"),
        pytest.param(DETECT.build(), {}, "detect ", AnswerForm((), box=True), id="no class"),
        pytest.param(DETECT.build(), {}, "what is there?", CATS, id="another prompt"),
        pytest.param(
            ObjectsOptions("find all", ["cat", "black cat"]).build(), {}, "find all", CATS, id="none named"
        ),
        pytest.param(
            ObjectsOptions("segment {labels}", masks=True).build(),
            {},
            "segment cat",
            AnswerForm((" cat",), box=True, mask=True),
            id="masks, classes unknown",
        ),
        pytest.param(
            ObjectsOptions("detect {expression}", write_label=False).build(),
            {},
            "detect the left cat",
            AnswerForm(("",), box=True),
            id="an expression",
        ),
        pytest.param(TextTask(objects=True), {}, "detect cat;black cat", CATS, id="boxes as text"),
        pytest.param(
            TextTask(objects=True),
            {},
            "segment cat",
            AnswerForm((" cat",), box=True, mask=True),
            id="masks as text",
        ),
        pytest.param(
            ChoiceTask(), {"choices": ["a dog", "a cow"]}, "which?", AnswerForm(("A", "B")), id="letters"
        ),
        pytest.param(
            ChoiceTask(suffix="It is {text}."),
            {"choices": ["a dog", "a cow"]},
            "which?",
            AnswerForm(("It is a dog.", "It is a cow.")),
            id="words of choices",
        ),
        pytest.param(
            MixedTask({"boxes": DETECT.build(), "quiz": ChoiceTask()}),
            {PART: "quiz", "choices": ["x", "y"]},
            "which?",
            AnswerForm(("A", "B")),
            id="a part of a mixture",
        ),
    ],
)
def test_a_task_says_what_its_answers_may_be(
    task: object, row: dict[str, Any], prefix: str, form: AnswerForm
) -> None:
    assert build_form(task, Grammar.auto, row, prefix) == form


@pytest.mark.parametrize(
    ("task", "grammar", "message"),
    [
        pytest.param(TextTask(), Grammar.auto, "What fits it: evaluation.grammar=yes_no", id="text"),
        pytest.param(DETECT.build(), Grammar.number, "What fits it: evaluation.grammar=auto", id="boxes"),
        pytest.param(ChoiceTask(), Grammar.auto, "the choices are not known", id="choices unknown"),
        pytest.param(ObjectsOptions().build(), Grammar.auto, "the classes are not known", id="no classes"),
        pytest.param(TextTask(objects=True), Grammar.auto, "names the classes", id="box_text"),
        pytest.param(object(), Grammar.auto, "No grammar fits it", id="custom"),
        pytest.param(
            MixedTask({"a": DETECT.build(), "b": TextTask()}), Grammar.auto, "No grammar fits", id="mixed"
        ),
        pytest.param(
            MixedTask({"a": DETECT.build()}), Grammar.auto, "several tasks", id="part of a mixture unknown"
        ),
    ],
)
def test_a_grammar_that_does_not_fit_is_refused(task: object, grammar: Grammar, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_form(task, grammar, {}, "what is there?")


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        (AnswerForm(number=True), "-12.5%", True),
        (AnswerForm(number=True), "12,5", False),
        (AnswerForm(("A", "B")), "B", True),
        (AnswerForm(("A", "B")), "C", False),
        (CATS, "", True),
        (CATS, "<loc0000>" * 4 + " black cat ; " + "<loc0001>" * 4 + " cat", True),
        (CATS, "<loc0000><loc0000><loc1023><loc1023> dog", False),
        (CATS, "<loc0000><loc0000><loc1023> cat", False),
        (AnswerForm(("",), box=True, mask=True), "<loc0000>" * 4 + "<seg001>" * 16, True),
        (AnswerForm((), box=True), "<loc0000>" * 4, False),
    ],
)  # fmt: skip
def test_a_text_is_compared_with_a_form(form: AnswerForm, text: str, expected: bool) -> None:
    assert can_write(form, text) is expected
