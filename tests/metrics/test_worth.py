"""What single answers are worth."""

from typing import Any

import pytest

from finetune.metrics.anls import Anls
from finetune.metrics.caption import Caption
from finetune.metrics.detection import Detection
from finetune.metrics.edit import EditRate
from finetune.metrics.metric import Metric
from finetune.metrics.referring import Referring
from finetune.metrics.text import ExactMatch
from finetune.metrics.vqa import VqaAccuracy
from finetune.metrics.worth import find_credits, order_rows


def build(prediction: str, *references: str) -> dict[str, Any]:
    return {"prediction": prediction, "references": list(references)}


def build_box(x: float, label: str = "a") -> dict[str, Any]:
    return {
        "objects": [{"label": "a", "box_xyxy": [0, 0, 10, 10]}],
        "prediction_objects": [{"label": label, "box_xyxy": [x, 0, 10 + x, 10], "score": 0.5}],
    }


@pytest.mark.parametrize(
    ("metric", "rows", "credits"),
    [
        pytest.param(ExactMatch(), [build("a", "a"), build("b", "a")], [1, 0], id="percent"),
        pytest.param(Anls(), [build("abcd", "abcd"), build("abcx", "abcd")], [1, 0.75], id="0 to 1"),
        pytest.param(
            VqaAccuracy(),
            [build("a", *"abbbbbbbbb"), build("b", *"abbbbbbbbb")],
            [0.3, 1],
            id="people differ",
        ),
        pytest.param(ExactMatch(), [build("b", "a"), build("c", "a")], [0, 0], id="nothing right"),
        pytest.param(Referring(), [build_box(0), build_box(5)], [1, 1 / 3], id="overlap"),
        pytest.param(EditRate(), [build("a", "a")], None, id="an error rate"),
        pytest.param(Caption(), [build("a", "a")], None, id="a corpus"),
    ],
)
def test_credit_is_a_share_of_the_best_score(
    metric: Metric, rows: Any, credits: list[float] | None
) -> None:
    assert find_credits(metric, rows) == (credits if credits is None else pytest.approx(credits))


@pytest.mark.parametrize(
    ("metric", "worse", "better", "name"),
    [
        pytest.param(ExactMatch(), build("b", "a"), build("a", "a"), "exact_match", id="a score"),
        pytest.param(EditRate(), build("bb", "ab"), build("ab", "ab"), "cer", id="an error rate"),
        pytest.param(
            Caption(), build("a cat", "a dog"), build("a dog", "dogs", "a dog"), "similarity", id="captions"
        ),
        pytest.param(Detection(), build_box(0, "b"), build_box(1), "F1", id="boxes"),
    ],
)
def test_the_better_answer_is_worth_more(metric: Metric, worse: Any, better: Any, name: str) -> None:
    worth = order_rows(metric, [worse, better])
    assert worth.values[0] < worth.values[1]
    assert name in worth.name
