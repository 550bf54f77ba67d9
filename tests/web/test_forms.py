from typing import Any

import pytest

from finetune.codecs.objects import ObjectReader
from finetune.errors import UserError
from finetune.tasks.choice import ChoiceTask
from finetune.tasks.mixture import MixedTask
from finetune.tasks.objects import ObjectsOptions, ObjectsTask, PromptClasses
from finetune.tasks.text import TextTask
from finetune.web.forms import FREE, Form, Kind, build_forms


def detection(**options: Any) -> ObjectsTask:
    return ObjectsTask(ObjectsOptions(**options), ObjectReader())


def first_form(task: object, **start: object) -> Form:
    return build_forms(task, start)[0]


def test_a_question_has_its_field_and_a_whole_prompt_is_always_possible() -> None:
    task, free = build_forms(TextTask("answer en {question}"), {"question": "why?"}, "caption en")
    assert [(field.name, field.kind, field.start) for field in task.fields] == [
        ("question", Kind.text, "why?")
    ]
    assert task.write({"question": "what?"})[0] == ("answer en what?",)
    assert (free.name, free.fields[0].start) == (FREE, "caption en")
    assert free.write({"prefix": "detect cat"}) == (("detect cat",), {})


def test_a_task_whose_prompt_is_anything_has_only_the_whole_prompt() -> None:
    assert [form.name for form in build_forms(TextTask(), {})] == [FREE]
    assert [form.name for form in build_forms(object(), {})] == [FREE]


def test_a_prompt_without_fields_is_asked_as_it_is() -> None:
    form = first_form(detection(prompt="detect all classes"))
    assert form.fields == ()
    assert form.write({})[0] == ("detect all classes",)


def test_no_class_means_all_of_them() -> None:
    form = first_form(detection(labels=["cat", "dog"]))
    [field] = form.fields
    assert (field.kind, field.known) == (Kind.classes, ("cat", "dog"))
    assert form.write({"labels": []})[0] == ("detect cat ; dog",)
    assert form.write({"labels": ["dog"]})[0] == ("detect dog",)


def test_a_class_at_a_time_is_a_prompt_for_each() -> None:
    form = first_form(detection(labels=["cat", "dog"], classes=PromptClasses.one))
    assert form.write({"labels": []})[0] == ("detect cat", "detect dog")


def test_choices_are_lines() -> None:
    form = first_form(ChoiceTask())
    assert [field.kind for field in form.fields] == [Kind.text, Kind.lines]
    prefixes, values = form.write({"question": "which?", "choices": "a cat\n\n a dog \n"})
    assert prefixes == ("answer en which? choose from: (A) a cat, (B) a dog",)
    assert values == {"question": "which?", "choices": ["a cat", "a dog"]}


def test_each_part_of_a_mixture_has_a_form() -> None:
    mixed = MixedTask({"vqa": TextTask("answer en {question}"), "boxes": detection(labels=["cat"])})
    forms = build_forms(mixed, {})
    assert [(form.name, form.part) for form in forms] == [("vqa", "vqa"), ("boxes", "boxes"), (FREE, None)]


@pytest.mark.parametrize(
    ("task", "values", "message"),
    [
        pytest.param(TextTask("answer en {question}"), {"question": " "}, "Fill in: question", id="blank"),
        pytest.param(TextTask(), {}, "Write a prompt", id="no prompt"),
        pytest.param(ChoiceTask(), {"question": "x"}, "Fill in: choices", id="no choices"),
        pytest.param(ChoiceTask(), {"question": "x", "choices": "a"}, "2 to 26", id="one choice"),
        pytest.param(detection(), {"labels": []}, "Fill in: labels", id="unknown classes"),
        pytest.param(detection(labels=["cat"]), {"labels": ["dog"]}, "no class `dog`", id="no such class"),
    ],
)
def test_what_is_missing_is_said(task: object, values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        first_form(task).write(values)
