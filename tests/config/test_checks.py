from collections.abc import Callable

import pytest

Command = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("resume=true overwrite=true", "choose one"),
        ("trainer.gradient_accumulation_steps=2", "follows from trainer.global_batch_size"),
        ("peft.bits=3", "expected 16, 8 or 4"),
        ("peft=none peft.bits=4", "quantized weights cannot learn themselves"),
        ("peft=none peft.use_dora=true", "need an adapter"),
        ("peft.target_modules=[]", "no layer would get an adapter"),
        ("peft.quantize=[]", "name the towers"),
        ("peft.r=0", "peft.r=0: expected 1 to 65536"),
        ("peft.lora_dropout=1.5", "peft.lora_dropout=1.5"),
        ("trainer.bf16=true trainer.fp16=true", "choose one"),
        ("model.dtype=float16", "mixes two half precisions: choose trainer.fp16=true"),
        ("trainer.learning_rate=0", "expected more than 0"),
        ("model.llm_dropout=1", "model.llm_dropout=1.0: expected 0 or more, and less than 1"),
        ("trainer.loss.label_smoothing=-1", "trainer.loss.label_smoothing=-1"),
        ("trainer.num_train_epochs=0", "expected more than 0"),
        ("+trainer.extra.seed=1", "set seed instead"),
        ("+trainer.extra.learning_rate=1", "set trainer.learning_rate instead"),
        ("+trainer.extra.label_smoothing_factor=0.1", "does not shift the labels"),
        ("+trainer.extra.remove_unused_columns=true", "the prefix mask is lost"),
        ("+foo=1", "foo is not an option"),
        ("+trainer.foo=1", "trainer.foo is not an option"),
        ("freeze=language_model freeze.last_n=2", "freeze.last_n applies to"),
        ("freeze.language_model=none", "Nothing would learn"),
        ("freeze.multi_modal_projector=attention", "one linear layer"),
        ("evaluation.strategy=steps", "say how many"),
        ("evaluation.steps=5", "needs evaluation.strategy=steps"),
        ("evaluation.metric_for_best_model=loss", "or evaluation.metric_for_best_model=null to keep"),
        ("evaluation.early_stopping_patience=1", "needs evaluation.metric_for_best_model"),
        ("evaluation.grammar=auto", "What fits it: evaluation.grammar=yes_no"),
        ("evaluation.grammar=boxes", "expected one of none, auto, yes_no, number"),
        ("augmentation.flip=1.5", "augmentation.flip=1.5: expected 0 to 1"),
        ("augmentation.saturation=-0.1", "augmentation.saturation=-0.1: expected 0 to 1"),
        ("augmentation.min_visible=nan", "augmentation.min_visible=nan: expected 0 to 1"),
        ("augmentation.crop=0", "expected more than 0, and at most 1"),
        ("augmentation.resize=[1.2,0.8]", "expected [smallest,largest]"),
        ("augmentation.resize=[0.8]", "expected [smallest,largest]"),
        ("augmentation.flip_words=[left,'']", "holds an empty text"),
        ("tracker.names=[excel]", "`excel` is not a tracker; expected tensorboard, trackio or wandb"),
        ("collator.max_text_length=2", "expected 4 to 1000000"),
        ("+metrics.x=anls", "metrics.x=anls: expected a choice, metrics=[x]"),
        ("resume=true run=z", "recipe= with run=FOLDER has no effect"),
    ],
)
def test_a_contradiction_is_told_before_anything_starts(command: Command, word: str, message: str) -> None:
    code, out, err = command("recipe=quickstart", *word.split())
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("dataset.train=null", "dataset.train is missing"),
        ("dataset.validation=v.jsonl dataset.validation_fraction=0.1", "are both given: add"),
        ("dataset.validation_fraction=null", "Expected one of"),
        ("dataset.validation_fraction=2", "expected more than 0, and less than 1"),
    ],
)
def test_a_jsonl_dataset_needs_its_files(command: Command, words: str, message: str) -> None:
    code, _, err = command("recipe=jsonl_qlora", *words.split())
    assert code == 2
    assert message in err


def test_a_yolo_dataset_needs_no_validation_split_of_its_own(command: Command) -> None:
    _, _, err = command("recipe=quickstart", "dataset=yolo")
    assert "dataset.train is missing" in err
    assert "Expected one of" not in err
    _, _, err = command("recipe=quickstart", "dataset=coco")
    assert "Expected one of" in err


def test_vqav2_names_the_files_that_are_missing(command: Command) -> None:
    _, _, err = command("recipe=vqav2_qlora", "dataset.train.questions=q.json")
    assert "missing: dataset.train.annotations, dataset.train.image_dir, dataset.validation" in err


def test_all_contradictions_come_in_one_message(command: Command) -> None:
    _, _, err = command("recipe=quickstart", "peft.bits=3", "peft.r=0", "evaluation.steps=5")
    assert "3 invalid settings:" in err
    assert err.count("  - ") == 3
