import json
from pathlib import Path

import pytest

from finetune.errors import UserError
from finetune.metrics.vqa import (
    VqaAccuracy,
    VqaConvention,
    normalize_answer,
    score_n_of_3,
    score_vqa_accuracy,
)

NET = ["net", "net", "net", "netting", "net", "net", "mesh", "net", "pitcher", "orange"]


@pytest.mark.parametrize(
    ("prediction", "references", "official", "normalised"),
    [
        pytest.param("net", NET, 100, 100, id="most"),
        pytest.param("netting", NET, 30, 30, id="one of ten"),
        pytest.param("The net.", NET, 100, 100, id="article and period"),
        pytest.param("Orange", ["orange"] * 10, 0, 100, id="unanimous: compared to the letter"),
        pytest.param("orange.", ["orange"] * 10, 0, 100, id="unanimous: period"),
        pytest.param("orange\n", ["orange"] * 10, 100, 100, id="white space is always stripped"),
        *(
            pytest.param(text, ["2"] * 4 + ["two"] * 6, 100, 100, id=f"number {text}")
            for text in ("2", "two", "2.", "the two")
        ),
        pytest.param("1000", ["3.5"] * 2 + ["1,000"] * 8, 100, 100, id="thousands"),
        pytest.param("3.5.", ["3.5"] * 2 + ["1,000"] * 8, 60, 60, id="decimal"),
        pytest.param("", NET, 0, 0, id="empty"),
    ],
)
def test_answers_score_as_the_official_evaluator_has_it(
    prediction: str, references: list[str], official: float, normalised: float
) -> None:
    assert score_vqa_accuracy(prediction, references) == pytest.approx(official)
    assert score_vqa_accuracy(prediction, references, always_normalize=True) == pytest.approx(normalised)


@pytest.mark.parametrize(("matches", "score"), [(0, 0), (1, 30), (2, 60), (3, 90), (4, 100), (9, 100)])
def test_the_score_depends_on_how_many_of_ten_agree(matches: int, score: float) -> None:
    references = ["yes"] * matches + [f"no {i}" for i in range(10 - matches)]
    assert score_vqa_accuracy("yes", references) == pytest.approx(score)


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("a dog and the cat", "dog and cat"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldntve", "couldntve"),
        ("somebody'd", "somebodyd"),
        ("None", "0"),
        ("ten", "10"),
        ("red/blue", "red blue"),
        ("red / blue", "red blue"),
        ("t-shirt", "t shirt"),
        ("1,000 - 2", "1000 2"),
        ("st. louis", "st louis"),
    ],
)
def test_normalisation_follows_the_official_table(answer: str, normal: str) -> None:
    assert normalize_answer(answer) == normal


def test_other_than_ten_references_are_refused_by_name() -> None:
    row = {"id": "q1", "prediction": "x", "references": ["x"] * 9}
    with pytest.raises(UserError, match=r"Row `q1`: .* needs 10 references, but it has 9"):
        VqaAccuracy().score(row)


def test_the_convention_and_case_are_options() -> None:
    row = {"id": "q", "prediction": "Orange", "references": ["orange"] * 10}
    assert VqaAccuracy().compute([row]) == {"vqa_accuracy": 0}
    assert VqaAccuracy(VqaConvention.normalised).score(row) == 100
    assert VqaAccuracy(lower=True).score(row) == 100


@pytest.mark.parametrize(
    ("matches", "score"), [(0, 0), (1, 100 / 3), (2, 200 / 3), (3, 100), (4, 100), (10, 100)]
)
def test_n_of_3_leaves_nobody_out(matches: int, score: float) -> None:
    references = ["yes"] * matches + [f"no {i}" for i in range(10 - matches)]
    assert score_n_of_3("yes", references) == pytest.approx(score)


def test_n_of_3_normalises_nothing_but_the_case_of_both_sides_when_asked() -> None:
    row = {"id": "q", "prediction": "The Net", "references": ["the net", "THE NET", "net", "The Net."]}
    assert VqaAccuracy(VqaConvention.n_of_3).score(row) == 0
    assert VqaAccuracy(convention=VqaConvention.n_of_3, lower=True).score(row) == pytest.approx(200 / 3)


def test_an_unknown_convention_is_refused_with_the_nearest_known() -> None:
    with pytest.raises(UserError, match=r"metric.convention=n_of_4 is not known. Did you mean `n_of_3`\?"):
        VqaAccuracy(convention="n_of_4")  # type: ignore[arg-type]


@pytest.mark.parity
@pytest.mark.parametrize(
    ("question", "prediction", "official", "normalised"),
    [
        (458752000, "net", 100, 100),
        (458752000, "netting", 30, 30),
        (458752000, "The net.", 100, 100),
        (458752002, "Orange", 0, 100),
        (458752002, "orange.", 0, 100),
    ],
)
def test_the_official_annotations_give_the_official_scores(
    parity_data: Path, question: int, prediction: str, official: float, normalised: float
) -> None:
    stored = json.loads((parity_data / "images/vqav2/annotations.json").read_text())
    answers = {one["question_id"]: one["answers"] for one in stored["annotations"]}[question]
    row = {"id": question, "prediction": prediction, "references": [one["answer"] for one in answers]}
    assert VqaAccuracy().score(row) == pytest.approx(official)
    assert VqaAccuracy(VqaConvention.normalised).score(row) == pytest.approx(normalised)
