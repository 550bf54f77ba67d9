import pytest

from finetune.errors import UserError
from finetune.metrics.edit import EditRate

ROWS = [
    {"prediction": "the cat sat", "references": ["the cat sat on the mat"]},
    {"prediction": "hallo wurld", "references": ["hello world"]},
    {"prediction": " a much longer answer than it should be", "references": ["no"]},
]


def test_rates_divide_all_edits_by_the_length_of_all_references() -> None:
    rows = [{"prediction": "abx", "references": ["abc"]}, {"prediction": "", "references": ["d e f g"]}]
    assert EditRate().compute(rows) == {"cer": pytest.approx(8 / 10), "wer": pytest.approx(5 / 5)}
    assert [EditRate().score(row) for row in rows] == [pytest.approx(1 / 3), 1]


def test_a_rate_can_exceed_one() -> None:
    assert EditRate().compute([ROWS[2]])["wer"] == 8


def test_white_space_at_the_ends_counts_only_when_asked() -> None:
    row = {"prediction": " ab\n", "references": ["ab"]}
    assert EditRate().compute([row]) == {"cer": 0, "wer": 0}
    assert EditRate(strip=False).compute([row]) == {"cer": 1, "wer": 0}


@pytest.mark.parametrize(("prediction", "rate"), [("", 0), ("abc", 3)])
def test_an_empty_reference_costs_one_for_each_character(prediction: str, rate: float) -> None:
    assert EditRate().score({"prediction": prediction, "references": [""]}) == rate


def test_the_nearest_of_several_references_counts() -> None:
    row = {"prediction": "colour", "references": ["paint", "color", "colours of the sea"]}
    assert EditRate().compute([row]) == {"cer": pytest.approx(1 / 5), "wer": 1}


def test_the_nearest_is_by_rate_not_by_edits() -> None:
    row = {"prediction": "colours of", "references": ["colour", "colours of the sea"]}
    assert EditRate().score(row) == pytest.approx(8 / 18)


def test_a_row_without_references_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="Row `o1`: expected `references`"):
        EditRate().compute([{"id": "o1", "prediction": "x"}])


def test_jiwer_comes_to_the_same_rates() -> None:
    jiwer = pytest.importorskip("jiwer")
    predictions = [row["prediction"] for row in ROWS]
    references = [row["references"][0] for row in ROWS]
    assert EditRate().compute(ROWS) == {
        "cer": pytest.approx(jiwer.cer(references, predictions)),
        "wer": pytest.approx(jiwer.wer(references, predictions)),
    }
