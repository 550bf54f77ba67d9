import json
from pathlib import Path

import pytest

from finetune.errors import UserError
from finetune.metrics.anls import Anls, AnlsConvention, score_anls_paper, score_anls_rrc


@pytest.mark.parametrize(
    ("prediction", "references", "rrc", "paper"),
    [
        pytest.param("30", ["30"], 1, 1, id="equal"),
        pytest.param("3", ["30"], 0.5, 0, id="half is kept by one"),
        pytest.param("abxy", ["abcd"], 0.5, 0, id="half of four"),
        pytest.param("cocacola", ["coca cola"], 8 / 9, 8 / 9, id="one space"),
        pytest.param("Coca  Cola ", ["coca cola"], 1, 9 / 11, id="white space counts in the paper"),
        pytest.param("a b", ["a    b"], 1, 0, id="and may cost everything"),
        pytest.param("COCA", ["coca"], 1, 1, id="case does not"),
        pytest.param("xyz", ["abc", "xya", "xyz!"], 0.75, 0.75, id="the nearest reference"),
        pytest.param("", [""], 1, 1, id="both empty"),
        pytest.param("x", [""], 0, 0, id="empty reference"),
        pytest.param("", ["x"], 0, 0, id="empty prediction"),
        pytest.param("a  x", ["a y"], 0.75, 0, id="raw length divides"),
    ],
)
def test_similarity_follows_either_convention(
    prediction: str, references: list[str], rrc: float, paper: float
) -> None:
    assert score_anls_rrc(prediction, references) == pytest.approx(rrc)
    assert score_anls_paper(prediction, references) == pytest.approx(paper)


def test_the_set_scores_the_mean_from_0_to_1() -> None:
    rows = [{"prediction": text, "references": ["30"]} for text in ("30", "3", "x")]
    assert Anls().compute(rows) == {"anls": 0.5}
    assert Anls(AnlsConvention.paper).compute(rows) == {"anls": pytest.approx(1 / 3)}


def test_pix2struct_own_test_scores_the_same() -> None:
    pairs = [
        ("abc", "abc"), ("abc", "Abc"), ("Abc", "abc"), ("100%", "96%"), ("100%", "94%"), ("100%", "0.96"),
        ("100%", "0.94"), ("Don't", "Won't"),
    ]  # fmt: skip
    rows = [{"prediction": prediction, "references": [target]} for prediction, target in pairs]
    assert Anls().compute(rows) == {"anls": pytest.approx(0.475)}


def test_an_unknown_convention_is_refused() -> None:
    with pytest.raises(UserError, match="one of: rrc, paper"):
        Anls(convention="official")  # type: ignore[arg-type]


def test_a_row_without_references_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="Row `d1`: expected `references`"):
        Anls().compute([{"id": "d1", "prediction": "x"}])


@pytest.mark.parity
@pytest.mark.parametrize("convention", list(AnlsConvention))
def test_the_published_fixture_scores_as_published(parity_data: Path, convention: AnlsConvention) -> None:
    folder = parity_data / "docvqa/anls_fixture"
    answers = {
        one["questionId"]: one["answer"] for one in json.loads((folder / "submission.json").read_text())
    }
    rows = [
        {"id": one["questionId"], "prediction": answers[one["questionId"]], "references": one["answers"]}
        for one in json.loads((folder / "gold_label.json").read_text())["data"]
    ]
    assert Anls(convention=convention).compute(rows)["anls"] == pytest.approx(0.377778, abs=1e-6)
