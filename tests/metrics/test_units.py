import pytest

from finetune.config.choices import GROUP_SCHEMAS
from finetune.metrics.metric import directions
from finetune.metrics.units import unit_of


def test_every_field_of_every_metric_has_a_unit() -> None:
    parts = [schema() for schema in GROUP_SCHEMAS["metric"].values()]
    metrics = [part.build() if hasattr(part, "build") else part for part in parts]
    fields = {field for metric in metrics for field in directions(metric)}
    assert {"ap", "mean_iou", "cider_d", "loss"} <= fields
    assert not [field for field in fields if not unit_of(field)]


@pytest.mark.parametrize(
    ("field", "unit"),
    [
        ("exact_match", "%"),
        ("ap_small", "0 to 1"),
        ("precision_70", "%"),
        ("anls", "0 to 1"),
        ("yes_no_accuracy", "%"),
        ("edit_cer", "0 to 1"),
        ("my_score", ""),
    ],
)
def test_units_are_those_of_the_field(field: str, unit: str) -> None:
    assert unit_of(field) == unit
