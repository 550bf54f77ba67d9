from typing import Any

import pytest

from finetune.errors import UserError
from finetune.tasks.choice import ChoiceTask
from finetune.tasks.objects import ObjectsOptions
from finetune.tasks.task import Task, fill_template, read_texts
from finetune.tasks.text import TextTask

ROW: dict[str, Any] = {
    "id": "7",
    "hint": "",
    "answers": ["x"],
    "choices": ["x", "y"],
    "answer": 0,
    "width": 10,
    "height": 10,
    "objects": [],
}


def test_an_empty_text_and_a_number_are_texts_of_a_prompt() -> None:
    assert fill_template("a {hint}{answer}", ROW) == "a 0"
    assert fill_template("{hint}", ROW, hint="given") == "given"


@pytest.mark.parametrize(
    "task",
    [
        pytest.param(TextTask("say {hint}", "answers"), id="text"),
        pytest.param(ChoiceTask("{hint} {choices}"), id="choice"),
        pytest.param(ObjectsOptions("find {hint}").build(), id="objects"),
        pytest.param(ObjectsOptions("find {hint} {labels}", ["x"]).build(), id="objects with labels"),
    ],
)
@pytest.mark.parametrize(
    "row",
    [
        pytest.param({**ROW, "hint": None}, id="null"),
        pytest.param({name: value for name, value in ROW.items() if name != "hint"}, id="missing"),
    ],
)
def test_a_null_never_reaches_a_prompt(task: Task, row: dict[str, Any]) -> None:
    for build in (task.build_text, task.measure_text):
        with pytest.raises(UserError, match="Row `7`: column `hint` is null"):
            build(row)
        assert "None" not in build(ROW).prefix


def test_one_text_a_list_or_null_are_lists_of_texts() -> None:
    values: tuple[Any, ...] = ("red", ["red", "green"], [], None)
    assert [read_texts({"a": value}, "a") for value in values] == [("red",), ("red", "green"), (), ()]


@pytest.mark.parametrize(
    ("task", "column"),
    [
        pytest.param(TextTask("say", "answers"), "answers", id="an answer"),
        pytest.param(ChoiceTask("{choices}"), "choices", id="a choice"),
    ],
)
def test_a_null_among_texts_is_named_by_row_column_and_place(task: Task, column: str) -> None:
    with pytest.raises(UserError, match=f"Row `7`: .* column `{column}` .* null at place 1"):
        task.build_text({**ROW, column: ["x", None]})


@pytest.mark.parametrize(
    ("template", "message"),
    [
        pytest.param("answer {", "cannot be read", id="open"),
        pytest.param("answer } x", "cannot be read", id="closed"),
        pytest.param("answer {}", "expected the name of a column", id="no name"),
        pytest.param("answer {0}", "expected the name of a column", id="number"),
        pytest.param("answer {hint.upper}", "expected the name of a column", id="attribute"),
        pytest.param("answer {hint[0]}", "expected the name of a column", id="item"),
        pytest.param("answer {hint:d}", "expected the name of a column", id="format"),
        pytest.param("answer {hint!r}", "expected the name of a column", id="conversion"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused_with_the_columns(template: str, message: str) -> None:
    tasks: list[Task] = [
        TextTask(template, "answers"),
        ChoiceTask(template),
        ObjectsOptions(template).build(),
    ]
    for task in tasks:
        with pytest.raises(UserError, match=message):
            task.check_columns(list(ROW))


def test_braces_that_belong_to_the_text_and_columns_with_spaces_are_templates() -> None:
    assert fill_template("{{hint}} {the hint}", {**ROW, "the hint": "x"}) == "{hint} x"
