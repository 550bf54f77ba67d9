import inspect
from dataclasses import fields
from enum import StrEnum

import pytest
from hydra.utils import get_object

from finetune.config.choices import GROUP_SCHEMAS

HANDED_ON = {"ObjectsTask": {"reading"}}
"""Arguments that come from another group: how answers are read is the metric's option."""

CHOICES = [(group, name) for group, schemas in GROUP_SCHEMAS.items() for name in schemas]


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_the_options_of_a_choice_are_the_arguments_of_its_target(group: str, name: str) -> None:
    schema = GROUP_SCHEMAS[group][name]
    target = get_object(schema()._target_)
    options = {field.name for field in fields(schema)} - {"_target_"}
    assert options == set(inspect.signature(target).parameters) - HANDED_ON.get(target.__name__, set())


@pytest.mark.parametrize("name", GROUP_SCHEMAS["metric"])
def test_every_value_of_a_metrics_options_is_accepted(name: str) -> None:
    schema = GROUP_SCHEMAS["metric"][name]
    target = get_object(schema()._target_)
    for field in fields(schema):
        if isinstance(field.type, type) and issubclass(field.type, StrEnum):
            for value in field.type:
                assert target(**{field.name: value}).higher_is_better
    assert target().higher_is_better
