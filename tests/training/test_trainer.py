import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor, TrainingArguments

from finetune.data.batches.collator import Collator
from finetune.data.batches.grouping import Grouping
from finetune.data.examples.dataset import ExampleDataset
from finetune.data.shipped.digits import load_digits
from finetune.errors import UserError
from finetune.model.freeze import apply_freeze
from finetune.model.options import FreezePolicy, Trainable
from finetune.run.checkpoints import COMPLETE, rotate
from finetune.tasks.text import TextTask
from finetune.training.options import LossAverage, LossConfig
from finetune.training.trainer import PaliGemmaTrainer

Build = Callable[..., PaliGemmaForConditionalGeneration]


@pytest.fixture(scope="module")
def digits() -> ExampleDataset:
    rows = load_digits(56).train.select(range(24))
    # Answers of different lengths, so that the two averages differ.
    rows = rows.map(lambda row, i: {"answers": ["x " * (1 + i % 4)]}, with_indices=True)
    return ExampleDataset(rows, TextTask("answer en {question}", "answers"), "train")


@pytest.fixture
def make_trainer(
    random_model: Build, processor: PaliGemmaProcessor, digits: ExampleDataset, tmp_path: Path
) -> Callable[..., PaliGemmaTrainer]:
    def make(
        model: nn.Module | None = None,
        average: str = "example",
        grouping: Grouping | None = None,
        **options: Any,
    ) -> PaliGemmaTrainer:
        if model is None:
            model = random_model(hidden_size=64, num_layers=2)
            apply_freeze(model, FreezePolicy(Trainable.none, Trainable.none, Trainable.all))
        arguments = {
            "output_dir": str(tmp_path / "out"),
            "max_steps": 3,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-3,
            "optim": "sgd",
            "max_grad_norm": 0.0,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": [],
            "remove_unused_columns": False,
            "logging_nan_inf_filter": False,
            "dataloader_pin_memory": False,
            "use_cpu": True,
            "disable_tqdm": True,
            **options,
        }
        return PaliGemmaTrainer(
            model,
            TrainingArguments(**arguments),
            Collator(processor),
            digits,
            loss=LossConfig(LossAverage(average)),
            grouping=grouping,
        )

    return make


def losses(trainer: PaliGemmaTrainer) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def weights(trainer: PaliGemmaTrainer) -> list[torch.Tensor]:
    return [p.detach().clone() for p in trainer.model.parameters() if p.requires_grad]


@pytest.mark.parametrize("average", ["example", "token"])
def test_accumulated_batches_train_as_one_large_batch(
    make_trainer: Callable[..., PaliGemmaTrainer], average: str
) -> None:
    whole = make_trainer(average=average, per_device_train_batch_size=8)
    parts = make_trainer(average=average, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    assert losses(whole) == pytest.approx(losses(parts), abs=1e-5)
    for one, other in zip(weights(whole), weights(parts), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("average", ["example", "token"])
def test_sorting_the_examples_of_a_step_changes_neither_loss_nor_weights(
    make_trainer: Callable[..., PaliGemmaTrainer], average: str
) -> None:
    divided = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "average": average}
    lengths = np.array([1 + index % 4 for index in range(24)])  # as the answers of `digits`
    plain, grouped = make_trainer(**divided), make_trainer(**divided, grouping=Grouping(lengths))
    orders = [list(trainer._get_train_sampler()) for trainer in (plain, grouped)]
    assert orders[0] != orders[1]
    assert losses(plain) == pytest.approx(losses(grouped), rel=1e-6)
    for one, other in zip(weights(plain), weights(grouped), strict=True):
        assert torch.allclose(one, other, atol=1e-7)


def test_the_two_averages_are_different_losses(make_trainer: Callable[..., PaliGemmaTrainer]) -> None:
    by_example, by_token = (losses(make_trainer(average=name)) for name in ("example", "token"))
    assert abs(by_example[0] - by_token[0]) > 1e-4


def test_training_overfits_a_handful_of_examples(make_trainer: Callable[..., PaliGemmaTrainer]) -> None:
    first, *_, last = losses(
        make_trainer(max_steps=40, optim="adamw_torch", learning_rate=3e-3, per_device_train_batch_size=8)
    )
    assert last < 0.3 * first


def test_the_epoch_counts_examples(make_trainer: Callable[..., PaliGemmaTrainer]) -> None:
    trainer = make_trainer(max_steps=9)
    trainer.train()
    steps = {entry["step"]: entry["epoch"] for entry in trainer.state.log_history if "loss" in entry}
    assert steps[6] == pytest.approx(1.0)
    assert steps[9] == pytest.approx(1.5)


class Exploding(nn.Module):
    """A model whose loss is not a number from the second step on."""

    def __init__(self, model: PaliGemmaForConditionalGeneration) -> None:
        super().__init__()
        self.model = model
        self.config = model.config
        self.calls = 0

    def forward(self, **inputs: Any) -> Any:
        self.calls += 1
        output = self.model(**inputs)
        if self.calls >= 2:
            output.logits = output.logits * float("nan")
        return output


@pytest.mark.parametrize("logging_steps", [1, 10])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_examples(
    make_trainer: Callable[..., PaliGemmaTrainer], random_model: Build, logging_steps: int, tmp_path: Path
) -> None:
    model = Exploding(random_model(hidden_size=64, num_layers=2))
    trainer = make_trainer(
        model, logging_steps=logging_steps, max_steps=4, save_strategy="steps", save_steps=3
    )
    with pytest.raises(UserError, match=r"loss is nan at step 2, on the examples digit-\d+, digit-\d+"):
        trainer.train()
    assert not list((tmp_path / "out").glob("checkpoint-*"))


def test_older_checkpoints_go_only_after_a_new_one_is_sealed(
    make_trainer: Callable[..., PaliGemmaTrainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(max_steps=4, save_strategy="steps", save_steps=1, save_total_limit=2)
    seen: list[list[str]] = []

    def watch(folder: Path, keep: int | None, best: int | None) -> None:
        seen.append(sorted(path.name for path in folder.iterdir() if (path / COMPLETE).is_file()))
        rotate(folder, keep, best)

    monkeypatch.setattr("finetune.training.trainer.rotate", watch)
    trainer.train()
    assert seen[2] == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == ["checkpoint-3", "checkpoint-4"]


def test_one_process_uses_one_of_several_visible_gpus(
    make_trainer: Callable[..., PaliGemmaTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    arguments = TrainingArguments(output_dir="unused", per_device_train_batch_size=4)
    assert arguments.train_batch_size == 8  # what is prevented here
    trainer = make_trainer(use_cpu=False)
    assert trainer.args.n_gpu == 1
    assert trainer.global_batch == 4
    assert trainer._wrap_model(trainer.model) is trainer.model


HISTORY = {
    "higher score": ([(1, 0.5, 3.0), (2, 0.7, 4.0), (3, 0.6, 1.0)], 2),
    "equal scores, lower loss": ([(1, 0.0, 3.0), (2, 0.0, 1.0), (3, 0.0, 2.0)], 2),
    "equal scores and losses, later step": ([(1, 0.0, 3.0), (2, 0.0, 3.0), (3, 0.0, 3.0)], 3),
    "a score that is not a number": ([(1, math.nan, 3.0), (2, 0.1, 4.0), (3, math.nan, 1.0)], 2),
}


@pytest.mark.parametrize("case", HISTORY)
def test_the_best_step_is_of_equal_ones_that_of_the_lower_loss_then_the_later(
    make_trainer: Callable[..., PaliGemmaTrainer], case: str
) -> None:
    trainer = make_trainer(metric_for_best_model="eval_score", greater_is_better=True)
    evaluations, best = HISTORY[case]
    for step, score, loss in evaluations:
        metrics = {"eval_score": score, "eval_loss": loss}
        trainer.state.global_step = step
        trainer.state.log_history.append({**metrics, "step": step})
        trainer._determine_best_metric(metrics, None)
    assert trainer.state.best_global_step == best


def test_weights_that_are_not_the_models_are_refused_with_both_lists(
    make_trainer: Callable[..., PaliGemmaTrainer], random_model: Build, tmp_path: Path
) -> None:
    random_model(hidden_size=64, num_layers=3).save_pretrained(tmp_path / "other")
    trainer = make_trainer()
    with pytest.raises(UserError, match=r"model alone: none; in the files alone: `.*layers\.2\."):
        trainer._load_from_checkpoint(str(tmp_path / "other"))


def test_settings_that_only_their_reader_knows_are_refused_before_the_training(
    make_trainer: Callable[..., PaliGemmaTrainer],
) -> None:
    for options in (
        {"adam_beta1": 1.5, "optim": "adamw_torch"},
        {"adam_epsilon": -1.0, "optim": "adamw_torch"},
        {"lr_scheduler_type": "cosine_with_min_lr"},
    ):
        with pytest.raises(UserError, match="settings cannot be used"):
            make_trainer(**options).check_settings()
