"""Two results side by side: what is the same, what chance explains, and what differs."""

from dataclasses import replace
from typing import Any

import pytest

from finetune.publish.record import Record, ScoredSplit
from finetune.publish.reproduce import Comparison, Verdict, compare_records
from finetune.publish.results import describe_difference

SCORES = {
    "exact_match": 90.0,
    "n": 100,
    "confidence": 0.8,
    "loss": 0.5,
    "by_group": {"a": {"exact_match": 80.0}},
}
SPLIT = ScoredSplit(SCORES, {"exact_match": [85.0, 94.0, 1000]}, "sha256:one")
DATA = {"validation": {"rows": 100, "digest": "sha256:d", "images": "content"}}
ENVIRONMENT: dict[str, Any] = {
    "python": "3.13.1",
    "packages": {"torch": "2.9"},
    "gpus": ["H100"],
    "base": {"commit": "c0", "fingerprint": "sha256:b"},
}
SETTINGS = {"seed": 0, "task.labels": ["cat"]}
CARD = Record(
    "card", {"validation": SPLIT}, DATA, ENVIRONMENT, SETTINGS, {"adapter_model.safetensors": "w"}, {}
)
WEIGHTS = {"adapter_model.safetensors": "w"}


def scored(answers: str | None = "sha256:one", rows: dict[str, str] | None = None, **scores: Any) -> Record:
    split = replace(SPLIT, scores={**SCORES, **scores}, answers=answers, rows=rows)
    return replace(CARD, splits={"validation": split})


def compare(again: Record, card: Record = CARD) -> tuple[Verdict, list[str]]:
    found = compare_records(card, again, WEIGHTS)
    return found.verdict, [describe_difference(one) for one in found.differences]


def test_the_same_is_equal_and_everything_is_counted() -> None:
    found = compare_records(CARD, CARD, WEIGHTS)
    assert found == Comparison(
        equal=[
            "data of validation", "weights", "base", "2 packages", "2 settings",
            "every answer to validation", "7 scores of validation",
        ]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [
        pytest.param({"exact_match": 90.001}, Verdict.different, id="score"),
        pytest.param({"by_group": {"a": {"exact_match": 79.0}}}, Verdict.different, id="group"),
        pytest.param({"loss": 0.5001, "confidence": 0.8002}, Verdict.equal, id="rounding"),
        pytest.param({"loss": 0.502}, Verdict.different, id="loss"),
        pytest.param({"n": 99}, Verdict.different, id="n"),
        pytest.param({"cer": 0.1}, Verdict.different, id="new-field"),
    ],
)
def test_with_the_same_answers_every_score_must_be_the_same(
    scores: dict[str, Any], verdict: Verdict
) -> None:
    assert compare(scored(**scores))[0] == verdict


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [
        pytest.param({"exact_match": 86.0}, Verdict.within, id="inside"),
        pytest.param({"exact_match": 84.9}, Verdict.different, id="below"),
        pytest.param({"exact_match": 94.1}, Verdict.different, id="above"),
        pytest.param({"exact_match": 90.0}, Verdict.within, id="same-score"),
        pytest.param({"loss": 0.7, "by_group": {"a": {"exact_match": 60.0}}}, Verdict.within, id="others"),
        pytest.param({"n": 99}, Verdict.different, id="n"),
    ],
)
def test_with_other_answers_a_score_is_judged_by_its_interval(
    scores: dict[str, Any], verdict: Verdict
) -> None:
    assert compare(scored("sha256:two", **scores))[0] == verdict


def test_without_an_interval_another_score_is_a_difference() -> None:
    card = replace(CARD, splits={"validation": replace(SPLIT, intervals={})})
    again = scored("sha256:two", exact_match=89.0)
    assert compare(again, card)[0] == Verdict.different


def test_answers_are_named_where_both_have_their_rows() -> None:
    card = replace(CARD, splits={"validation": replace(SPLIT, rows={str(n): "a" for n in range(9)})})
    again = scored("sha256:two", {str(n): "b" if n else "a" for n in range(9)})
    verdict, lines = compare(again, card)
    assert verdict == Verdict.within
    assert lines[0] == "validation answer `1`: a in the card, b here"
    assert lines[-1] == "validation answers: 9 in all in the card, 8 of them differ here"


@pytest.mark.parametrize(
    ("said", "line"),
    [
        pytest.param(
            {"packages": {"torch": "2.8"}}, "package torch: 2.9 in the card, 2.8 here", id="package"
        ),
        pytest.param({"python": "3.11.2"}, "package python: 3.13.1 in the card, 3.11.2 here", id="python"),
        pytest.param(
            {"base": {"commit": "c1", "fingerprint": "sha256:b"}},
            "base commit: c0 in the card, c1 here",
            id="base",
        ),
    ],
)
def test_versions_and_base_are_named(said: dict[str, Any], line: str) -> None:
    assert compare(replace(CARD, environment={**ENVIRONMENT, **said})) == (Verdict.different, [line])


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        pytest.param({**SETTINGS, "seed": 1}, "setting seed: 0 in the card, 1 here", id="other"),
        pytest.param({"seed": 0}, 'setting task.labels: ["cat"] in the card, nothing here', id="less"),
    ],
)
def test_settings_are_named(settings: dict[str, Any], line: str) -> None:
    assert compare(replace(CARD, settings=settings)) == (Verdict.different, [line])


def test_weights_of_a_merged_result_have_no_digest_to_compare() -> None:
    found = compare_records(CARD, CARD, {"model.safetensors": "m"})
    assert (found.verdict, found.not_compared) == (
        Verdict.equal,
        [
            "weights: the result was written as adapter_model.safetensors, and here is model.safetensors",
            "base: the result has all of its weights itself",
        ],
    )


def test_data_are_named_by_their_rows_and_digests() -> None:
    fewer = replace(CARD, data={"validation": {**DATA["validation"], "rows": 99}})
    assert compare(fewer)[1] == ["data of validation: 100 rows in the card, 99 rows here"]
    other = replace(CARD, data={"validation": {**DATA["validation"], "digest": "sha256:e"}})
    assert compare(other)[1] == ["data of validation: sha256:d in the card, sha256:e here"]


def test_another_weight_is_named() -> None:
    found = compare_records(CARD, CARD, {"adapter_model.safetensors": "x"})
    assert found.verdict == Verdict.different
    assert found.differences[0].what == "weights adapter_model.safetensors"


def test_places_and_hardware_do_not_decide() -> None:
    again = replace(CARD, environment={**ENVIRONMENT, "gpus": []}, places={"dataset.train": "/a"})
    found = compare_records(replace(CARD, places={"dataset.train": "/b"}), again, WEIGHTS)
    assert found.verdict == Verdict.equal
    assert [place.what for place in found.places] == ["gpus", "dataset.train"]


def test_what_an_older_result_does_not_say_is_listed() -> None:
    old = replace(
        CARD,
        data={},
        environment={},
        settings=None,
        weights={},
        splits={"validation": replace(SPLIT, answers=None)},
    )
    found = compare_records(old, CARD, WEIGHTS)
    assert found.verdict == Verdict.equal
    assert [text.partition(":")[0] for text in found.not_compared] == [
        "data of validation", "weights", "base", "package", "setting", "answers to validation",
    ]  # fmt: skip
