from collections.abc import Callable

import pytest

from finetune.assembly.trainer import build_arguments, build_run_metric
from finetune.config.compose import compose


@pytest.mark.parametrize(
    ("words", "every", "warned"),
    [
        pytest.param("evaluation.strategy=epoch", 4, True, id="after each epoch"),
        pytest.param("evaluation.strategy=steps evaluation.steps=3", 3, True, id="at other steps"),
        pytest.param("evaluation.strategy=steps evaluation.steps=2", 2, False, id="at the same steps"),
        pytest.param("evaluation.metric_for_best_model=null", 2, False, id="without a best one"),
    ],
)
def test_steps_of_checkpoints_that_follow_from_evaluations_are_reported(
    words: str, every: int, warned: bool, reported: Callable[[], str]
) -> None:
    given = ["evaluation.metric_for_best_model=loss"] if "best_model" not in words else []
    config = compose(
        ["recipe=quickstart", "trainer.global_batch_size=2", "trainer.save_steps=2", *given, *words.split()]
    )
    metric = build_run_metric(config)
    arguments = build_arguments(config.trainer, config.evaluation, 0, metric, 8)
    assert arguments.save_steps == every
    assert ("trainer.save_steps=2 has no effect" in reported()) == warned
