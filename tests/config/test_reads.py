from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.config.reads import check_options
from finetune.errors import UserError

Command = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("job", "words", "message"),
    [
        ("train", "image=x", "image= has no effect on `train`. It is an option of `predict`."),
        ("train", "prefix=x", "It is an option of `predict`, `demo`."),
        (
            "train",
            "out=x",
            "It is an option of `predict`, `preview`, `compare`, `merge`, `push`, `export`.",
        ),
        ("train", "predictions=x", "It is an option of `score`."),
        ("train", "run=x", "add resume=true"),
        ("train", "run=x resume=true run_name=y", "run_name= with run=FOLDER has no effect"),
        ("evaluate", "run=x model=tiny", "model= with run=FOLDER has no effect: the run names its own"),
        ("evaluate", "run=x recipe=quickstart", "recipe= with run=FOLDER"),
        ("evaluate", "run=x adapter=y", "run=FOLDER brings its own adapter"),
        ("evaluate", "run=x adapter_revision=y", "run=FOLDER brings its own adapter"),
        ("predict", "run=x model.hub_id=ann/y", "the run names its own checkpoint"),
        ("evaluate", "run=x peft.r=4", "peft.r= with run=FOLDER has no effect"),
        ("evaluate", "run=x peft=dora", "peft= with run=FOLDER has no effect"),
        ("evaluate", "run=x freeze.last_n=2", "freeze.last_n= has no effect on `evaluate`"),
        ("evaluate", "run=x run_name=y", "run_name= with run=FOLDER"),
        ("evaluate", "run=x runs_dir=y", "runs_dir= with run=FOLDER"),
        ("evaluate", "recipe=quickstart trainer.learning_rate=1", "trainer.learning_rate= has no effect"),
        ("evaluate", "recipe=quickstart evaluation.strategy=epoch", "evaluation.strategy= has no effect"),
        ("predict", "run=x model=tiny image=y prefix=z", "model= with run=FOLDER"),
        ("predict", "image=y prefix=z", "Which model? run=FOLDER (a finished run), or model=ID."),
        ("predict", "recipe=quickstart image=y prefix=z", "Which model? run=FOLDER"),
        ("predict", "run=x predictions=y", "It is an option of `score`."),
        ("score", "metric=edit predictions=x model=tiny", "model= has no effect on `score`"),
        ("plan", "recipe=quickstart resume=true", "resume= has no effect on `plan`"),
        ("plan", "recipe=quickstart overwrite=true", "overwrite= has no effect on `plan`"),
        ("score", "metric=edit predictions=x run=y", "run= has no effect on `score`"),
    ],
)
def test_an_option_that_the_job_would_ignore_is_refused(job: str, words: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        check_options(job, words.split())
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ("train", "recipe=quickstart adapter=x trainer.learning_rate=1"),
        ("train", "run=x resume=true trainer.max_steps=9"),
        ("plan", "recipe=quickstart run_name=x peft.r=2"),
        ("evaluate", "run=x evaluation.num_beams=3 dataset.validation=y metric=edit evaluation.limit=3"),
        ("evaluate", "recipe=quickstart model=tiny adapter=x run_name=y peft=none overwrite=true"),
        ("predict", "run=x image=y prefix=z out=o evaluation.max_new_tokens=9"),
        ("predict", "model=tiny adapter=x image=y prefix=z"),
        ("predict", "model=tiny adapter=x/y adapter_revision=v1 adapter_base=any image=y prefix=z"),
        ("evaluate", "run=x adapter_base=any"),
        ("score", "recipe=quickstart predictions=x metric.lower=true"),
    ],
)
def test_an_option_that_the_job_reads_is_accepted(job: str, words: str) -> None:
    check_options(job, words.split())


def test_predict_without_a_model_answers_at_once(command: Command, tmp_path: Path) -> None:
    code, _, err = command("predict", f"image={tmp_path}/cat.jpg", "prefix=caption en")
    assert code == 2
    assert err == "error: Which model? run=FOLDER (a finished run), or model=ID.\n"


@pytest.mark.parametrize(
    ("words", "name"),
    [(("merge", "model=tiny", "adapter=x", "outt=y"), "out"), (("reproduce", "crad=x"), "card")],
)
def test_a_misspelt_option_is_named_before_the_one_that_seems_to_be_missing(
    command: Command, words: tuple[str, ...], name: str
) -> None:
    code, _, err = command(*words)
    assert code == 2
    assert f"Did you mean `{name}`?" in err
