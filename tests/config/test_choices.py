from dataclasses import fields
from enum import StrEnum
from typing import Any

import pytest
from omegaconf import OmegaConf

from finetune.assembly.custom import instantiate
from finetune.config.choices import GROUP_SCHEMAS, build_node
from finetune.config.compose import compose

METRICS = GROUP_SCHEMAS["metric"]


@pytest.mark.parametrize("name", METRICS)
def test_every_value_of_a_metrics_options_is_accepted(name: str) -> None:
    schema: Any = METRICS[name]
    for field in fields(schema):
        if isinstance(field.type, type) and issubclass(field.type, StrEnum):
            for value in field.type:
                assert instantiate(schema(**{field.name: value}), "metric").higher_is_better
    assert instantiate(schema(), "metric").higher_is_better


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_what_its_choice_composes_to(name: str) -> None:
    assert compose(["recipe=quickstart", f"metric={name}"]).metric == METRICS[name]()


def test_options_are_set_by_name_and_become_their_enumerations() -> None:
    composed = compose(["recipe=quickstart", "metric=vqa_accuracy", "metric.convention=n_of_3"]).metric
    assert composed == METRICS["vqa_accuracy"](convention="n_of_3")
    assert isinstance(composed.convention, StrEnum)


def test_a_node_of_a_frozen_class_can_be_changed() -> None:
    node = build_node(METRICS["anls"])
    node.convention = "paper"
    assert OmegaConf.to_object(node) == METRICS["anls"](convention="paper")
