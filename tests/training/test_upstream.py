"""What `finetune/training` relies on in transformers' Trainer and torch's DataLoader.

Each test fails when an update changes what the library is relied on for.
"""

import inspect
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainingArguments

from finetune.assembly.trainer import _SAME_NAMES
from finetune.training.trainer import PaliGemmaTrainer

OVERRIDDEN = sorted(name for name in vars(PaliGemmaTrainer) if callable(getattr(Trainer, name, None)))


@pytest.mark.parametrize("name", [name for name in OVERRIDDEN if not name.startswith("__")])
def test_an_overridden_method_has_transformers_parameters(name: str) -> None:
    """Else transformers calls ours with other arguments than it expects, or leaves one out."""
    ours, theirs = (inspect.signature(getattr(kind, name)) for kind in (PaliGemmaTrainer, Trainer))
    assert list(ours.parameters) == list(theirs.parameters)


def test_every_private_method_is_called_by_somebody() -> None:
    """Else transformers renamed what we override: its own sampler, count or save would be used again."""
    own = inspect.getsource(PaliGemmaTrainer)
    private = [
        name for name in vars(PaliGemmaTrainer) if name.startswith("_") and not name.startswith("__")
    ]
    methods = [name for name in private if callable(getattr(PaliGemmaTrainer, name))]
    assert methods
    for name in methods:
        assert name in OVERRIDDEN or f"self.{name}(" in own, name


def test_the_batch_is_multiplied_by_the_visible_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the guard that keeps one process to one device guards nothing, or no longer has an effect."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    arguments = TrainingArguments(output_dir=str(tmp_path), per_device_train_batch_size=4)
    assert arguments.n_gpu == 2
    assert arguments.train_batch_size == 8
    arguments._n_gpu = 1
    assert arguments.train_batch_size == 4


@pytest.mark.parametrize(("warmup", "steps"), [(0.05, 5), (7, 7), (0, 0)])
def test_a_warm_up_below_one_is_a_share_of_the_steps(tmp_path: Path, warmup: float, steps: int) -> None:
    """Else `trainer.warmup_steps=0.05` means no warm-up at all."""
    arguments = TrainingArguments(output_dir=str(tmp_path), warmup_steps=warmup, use_cpu=True)
    assert arguments.get_warmup_steps(100) == steps


def test_our_values_reach_the_arguments_unchanged(tmp_path: Path) -> None:
    """Else an option of ours is renamed or replaced on its way to the trainer."""
    values: dict[str, Any] = {
        "learning_rate": 3e-4, "lr_scheduler_type": "linear", "warmup_steps": 3, "optim": "sgd",
        "weight_decay": 0.1, "adam_beta1": 0.8, "adam_beta2": 0.9, "adam_epsilon": 1e-6,
        "max_grad_norm": 0.0, "bf16": True, "fp16": False, "logging_steps": 7, "save_total_limit": 3,
        "dataloader_num_workers": 1, "dataloader_prefetch_factor": 3, "logging_nan_inf_filter": False,
        "remove_unused_columns": False,
    }  # fmt: skip
    assert set(_SAME_NAMES) <= set(values)
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, **values)
    for name, value in values.items():
        assert getattr(arguments, name) == value, name


class Process(Dataset[int]):
    """Whose items are the number of the process that reads them, which a signal may have reached."""

    def __init__(self, signalled: bool) -> None:
        self.signalled = signalled

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        if self.signalled:
            os.kill(os.getpid(), signal.SIGTERM)
        return os.getpid()


def ignore_sigterm(worker: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def load(prepare: Callable[[int], None] | None) -> list[int]:
    loader = DataLoader(Process(True), num_workers=1, worker_init_fn=prepare)
    return [int(batch) for batch in loader]


def test_a_worker_that_sigterm_ends_is_an_error_in_the_trainer() -> None:
    """Else a SIGTERM to all processes of a job, as SLURM sends it, hangs the run or passes unseen."""
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        load(None)


def test_a_worker_may_ignore_sigterm() -> None:
    """Else workers die before the checkpoint is saved that the signal asks for."""
    assert len(set(load(ignore_sigterm))) == 1
