import pytest

from finetune.errors import UserError
from finetune.metrics.json_fields import JsonFields

RECEIPT = '{"items": [{"name": "tea", "price": "2.00"}, {"name": "cake", "price": 3}], "total": "5.00"}'


@pytest.mark.parametrize(
    ("prediction", "score"),
    [
        pytest.param(RECEIPT, 100, id="equal"),
        pytest.param(
            '{"total": "5.00", "items": [{"price": "3", "name": "cake"}, '
            '{"name": " tea", "price": "2.00"}]}',
            100,
            id="other order, number as text",
        ),
        pytest.param('{"total": "5.00"}', 100 * 2 * 1 / 6, id="one of five"),
        pytest.param(RECEIPT[:-1], 0, id="cut"),
        pytest.param("", 0, id="empty"),
        pytest.param('{"total": "5.00", "tax": "1"}', 100 * 2 * 1 / 7, id="one too many"),
    ],
)
def test_fields_are_compared_by_path_and_value(prediction: str, score: float) -> None:
    row = {"id": "1", "prediction": prediction, "references": [RECEIPT]}
    assert JsonFields().score(row) == pytest.approx(score)


def test_a_set_counts_all_fields_and_whole_answers() -> None:
    rows = [
        {"prediction": '{"a": 1}', "references": ['{"a": 2}', '{"a": 1}']},
        {"prediction": '{"a": 1, "b": 2}', "references": ['{"a": 1, "b": 3}']},
        {"prediction": "no", "references": ["{}"]},
        {"prediction": "{}", "references": ["{}"]},
    ]
    scores = JsonFields().compute(rows)
    assert scores == {"fields_f1": pytest.approx(100 * 4 / 6), "valid_json": 75.0, "all_fields": 50.0}


def test_a_reference_that_is_not_json_is_refused() -> None:
    with pytest.raises(UserError, match=r"Row `7`: expected the reference to be a JSON object or list"):
        JsonFields().score({"id": "7", "prediction": "{}", "references": ["a cup"]})
