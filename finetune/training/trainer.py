"""transformers' Trainer with PaliGemma's loss, order, optimizer groups, checkpoints and evaluation."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainingArguments, get_scheduler

from finetune import signals
from finetune.data.batches.collator import Collator
from finetune.data.batches.grouping import GroupedStream, Grouping, Passes
from finetune.data.batches.order import ExampleStream
from finetune.data.examples.dataset import ExampleDataset
from finetune.errors import UserError
from finetune.example import Batch
from finetune.model.forward import compute_losses
from finetune.model.loss import count_items
from finetune.model.weights import load_weights
from finetune.processes import failing_together, raise_together, share
from finetune.run.checkpoints import Checkpoint, find_damage, rotate, seal
from finetune.speed import Technique
from finetune.training.optimizer import build_parameter_groups
from finetune.training.options import LossAverage, LossConfig, TowerOptimizers

log = logging.getLogger(__name__)

PROGRESS = "finetune"
"""Key of the sum of the losses and the seconds so far in a checkpoint's `trainer_state.json`."""


class PaliGemmaTrainer(Trainer):
    """Trains a PaliGemma, or an adapter on one.

    Args:
        model: the model, with `requires_grad` set.
        args: with `max_steps` set.
        data_collator: makes the batches.
        train_dataset: the examples.
        loss: how it is averaged and smoothed.
        towers: exceptions to learning rate and weight decay.
        parts: of a mixture: name -> number of examples and weight, in the order of the split.
        grouping: sorts examples by length; None: they stay in the order of the stream.
        evaluate_split: scores the model at a step; called by all processes at once.
        before_save: called by one process before a checkpoint is written.
        callbacks: transformers' callbacks.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        data_collator: Collator,
        train_dataset: ExampleDataset,
        *,
        loss: LossConfig | None = None,
        towers: TowerOptimizers | None = None,
        parts: Mapping[str, tuple[int, float]] | None = None,
        grouping: Grouping | None = None,
        evaluate_split: Callable[[nn.Module, int], dict[str, float]] | None = None,
        before_save: Callable[[], None] | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        self.loss = loss or LossConfig()
        self.towers = towers or TowerOptimizers()
        self.parts = dict(parts or {"": (len(train_dataset), 1.0)})
        self.grouping = grouping
        self.techniques: list[Technique] = []
        """What became of the shortcuts that change how examples are read, for the log."""
        self.evaluate_split = evaluate_split
        self.before_save = before_save
        self.loss_sum = 0.0
        self.seconds_before = 0.0
        self.is_broken = False
        self._unchecked: list[tuple[int, list[str], Tensor]] = []
        self._began = self._evaluating = 0.0
        self._first_step = 0
        # Trainer multiplies the batch by the number of visible GPUs and wraps the model in nn.DataParallel,
        # unless each has a process. Here one process has one device.
        args._n_gpu = min(args.n_gpu, 1)
        # Trainer would delete any folder with a checkpoint's name; `rotate` deletes only what was written.
        self.keep, args.save_total_limit = args.save_total_limit, None
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            # Trainer requires a dataset to evaluate on; `evaluate` below does not read it.
            eval_dataset=train_dataset if evaluate_split else None,
            callbacks=callbacks,
        )
        # `compute_loss` divides by the items of the whole accumulated batch itself.
        self.loss_is_scaled_for_ga = True

    @property
    def global_batch(self) -> int:
        """Examples in one optimizer step, over all processes."""
        return self.passes.batch

    @property
    def passes(self) -> Passes:
        """How the examples of one optimizer step are divided."""
        processes, accumulation = self.accelerator.num_processes, self.args.gradient_accumulation_steps
        return Passes(self._train_batch_size, processes, accumulation)

    def check_settings(self) -> Batch:
        """Build optimizer, schedule, loader and the first batch, so that errors in them surface now.

        Returns:
            That batch.

        Raises:
            UserError: one of them refuses its settings, or an example of the first batch cannot be read.
        """
        try:
            self.create_optimizer()
            # On another optimizer: a schedule sets the learning rate when it is built.
            get_scheduler(
                self.args.lr_scheduler_type,
                optimizer=torch.optim.SGD([torch.zeros(1)], lr=self.args.learning_rate),
                num_warmup_steps=self.args.get_warmup_steps(self.args.max_steps),
                num_training_steps=self.args.max_steps,
                scheduler_specific_kwargs=self.args.lr_scheduler_kwargs,
            )
            self.get_train_dataloader()
        except (ValueError, TypeError, AssertionError, ImportError, RuntimeError, KeyError) as error:
            raise UserError(
                f"The trainer's settings cannot be used: {error} See trainer.optim ({self.args.optim}), "
                f"trainer.lr_scheduler_type ({self.args.lr_scheduler_type}), trainer.adam_* and "
                "trainer.dataloader_*."
            ) from error
        with failing_together():
            first = islice(self._get_train_sampler(), self._train_batch_size)
            batch: Batch = self.data_collator([self.train_dataset[key] for key in first])
        return batch

    def get_train_dataloader(self) -> DataLoader[Batch]:
        """Return Trainer's loader, with workers that leave signals to this process."""
        loader: DataLoader[Batch] = super().get_train_dataloader()
        # accelerate's loader forwards attributes that are read, but not those that are set.
        base = getattr(loader, "base_dataloader", loader)
        base.worker_init_fn = partial(_start_worker, base.worker_init_fn)
        return loader

    @property
    def order(self) -> Sampler[tuple[int, int]]:
        """The examples of the whole run, over all processes."""
        # One stream instead of epochs: Trainer's own would end in a short batch and reshuffle on resume.
        draws = self.args.max_steps * self.global_batch
        sizes, weights = zip(*self.parts.values(), strict=True)
        stream = ExampleStream(sizes, draws, self.args.seed, weights)
        return stream if self.grouping is None else GroupedStream(stream, self.grouping, self.passes)

    def _get_train_sampler(self, train_dataset: object = None) -> Sampler[tuple[int, int]]:
        return self.order

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor]:
        """Fetch the batches of one optimizer step, and count their examples (or tokens) over all processes.

        Raises:
            UserError: an example of any process cannot be read; in all processes, before the step.
        """
        batches: list[Batch] = []
        with failing_together(), suppress(StopIteration):
            while len(batches) < num_batches:
                with signals.held():  # workers start with the first batch
                    batches.append(next(epoch_iterator))
        items = sum(count_items(batch, self.loss.average) for batch in batches)
        return batches, self.accelerator.gather(torch.as_tensor(items, device=device)).sum()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor:
        """Return this micro-batch's share of the loss of one optimizer step.

        Summed over the micro-batches and averaged over the processes, as DistributedDataParallel
        averages gradients, the shares are the mean over the whole batch.
        """
        by_example = self.loss.average == LossAverage.example
        losses = compute_losses(model, inputs, self.loss.label_smoothing, mean=by_example)
        items: Tensor | float = count_items(inputs, self.loss.average)
        if num_items_in_batch is not None:
            items = num_items_in_batch / self.accelerator.num_processes
        loss = losses.sum() / items
        if model.training:
            self._unchecked.append((self.state.global_step + 1, inputs["ids"], loss.detach()))
        return loss

    def check_finite(self) -> None:
        """Add up the losses since the last check, and raise if one of them was NaN or infinite.

        Called when something is logged or saved: a check at every step would make the CPU wait for the GPU.

        Raises:
            UserError: names the step and the examples of its batch; in all processes.
        """
        losses = torch.stack([loss for _, _, loss in self._unchecked]).tolist() if self._unchecked else []
        mistake: str | None = None
        for (step, ids, _), loss in zip(self._unchecked, losses, strict=True):
            if not math.isfinite(loss):
                mistake = (
                    f"The loss is {loss} at step {step}, on the examples {', '.join(ids)}. Nothing was "
                    "saved since. Look at these examples; with fp16 choose trainer.bf16=true, else lower "
                    "trainer.learning_rate."
                )
                break
            self.loss_sum += loss
        self.is_broken = any(text is not None for text in share(mistake))
        raise_together(mistake)
        self._unchecked.clear()

    @property
    def mean_loss(self) -> float:
        """The mean loss of all optimizer steps over all processes, including those before a resume."""
        sums = share(self.loss_sum)
        return sum(sums) / len(sums) / max(self.state.global_step, 1)

    @property
    def seconds(self) -> float:
        """Duration of all steps and the evaluations between them, including those before a resume."""
        return self.seconds_before + time.monotonic() - self._began

    @property
    def examples_per_second(self) -> float:
        """Speed of the steps since this start, without the evaluations between them."""
        seconds = time.monotonic() - self._began - self._evaluating
        steps = self.state.global_step - self._first_step
        return steps * self.global_batch / max(seconds, 1e-9)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log with the epoch counted in examples: for Trainer the whole run is one pass."""
        self.check_finite()
        self.state.epoch = self.state.global_step * self.global_batch / len(self.train_dataset)
        super().log(logs, start_time)

    optimizer: torch.optim.Optimizer | None
    control: TrainerControl

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Build the optimizer over the towers' parameter groups."""
        if self.optimizer is None:
            model = self.model if model is None else model
            cls, kwargs = self.get_optimizer_cls_and_kwargs(self.args, model)
            groups = build_parameter_groups(
                model, self.args.learning_rate, self.args.weight_decay, self.towers
            )
            self.optimizer = cls(groups, **kwargs)
        return self.optimizer

    def evaluate(
        self,
        eval_dataset: object = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Score the validation split by generation."""
        self.check_finite()
        if self.evaluate_split is None:
            raise ValueError("this trainer was built without evaluate_split")
        began = time.monotonic()
        scores = self.evaluate_split(self.accelerator.unwrap_model(self.model), self.state.global_step)
        self._evaluating += time.monotonic() - began
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in scores.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _determine_best_metric(self, metrics: dict[str, float], trial: object) -> bool:
        """Record the step if it is the best so far; ties go to the lower loss, then to the later step.

        Trainer keeps the first of equal steps: if a score does not move, that is the untrained model.
        """
        name = self.args.metric_for_best_model
        if name is None:
            return False
        sign = 1 if self.args.greater_is_better else -1
        best_step = self.state.best_global_step
        history = (
            entry for entry in self.state.log_history if entry["step"] == best_step and name in entry
        )
        best = next(history, None)
        is_best = best is None or not _rank(metrics, name, sign) < _rank(best, name, sign)
        if is_best:
            self.state.best_metric, self.state.best_global_step = metrics[name], self.state.global_step
        return is_best

    def save_now(self) -> None:
        """Save a checkpoint of the last whole step, unless it exists."""
        # Losses of a step that was interrupted: a resumed run takes it again.
        self._unchecked = [entry for entry in self._unchecked if entry[0] <= self.state.global_step]
        folder = self._checkpoint(self.state.global_step)
        if not any(share(folder.is_sealed)):
            self._save_checkpoint(self.model, None)

    def _checkpoint(self, step: int) -> Checkpoint:
        return Checkpoint(step, Path(self.args.output_dir) / f"checkpoint-{step}")

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:
        """Save, seal the folder, and only then delete older ones."""
        self.check_finite()
        self.state.stateful_callbacks[PROGRESS] = {"losses": share(self.loss_sum), "seconds": self.seconds}
        if self.args.should_save and self.before_save is not None:
            self.before_save()
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            folder = self._checkpoint(self.state.global_step).folder
            (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty template
            seal(folder)
            rotate(Path(self.args.output_dir), self.keep, self.state.best_global_step)

    def _init_training_state(
        self,
        max_steps: int,
        num_update_steps_per_epoch: int,
        num_train_epochs: int,
        resume_from_checkpoint: str | None,
        trial: object,
    ) -> tuple[int, int]:
        """Restore the sum of the losses from a checkpoint, and seed each process differently."""
        position: tuple[int, int] = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        self._began, self._first_step = time.monotonic(), self.state.global_step
        if (progress := self.state.stateful_callbacks.get(PROGRESS)) is not None:
            losses, processes = progress["losses"], self.accelerator.num_processes
            same = len(losses) == processes
            self.loss_sum = losses[self.args.process_index] if same else sum(losses) / len(losses)
            self.seconds_before = progress["seconds"]
        # Not the path in the state: the run's folder may have been moved or copied.
        if self.state.best_global_step:
            self.state.best_model_checkpoint = str(self._checkpoint(self.state.best_global_step).folder)
        if self.args.process_index > 0:
            # With the same seed, every process would drop the same activations of its share of the batch.
            torch.manual_seed(self.args.seed + self.args.process_index)
        return position

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load the weights and read them back; Trainer skips names that it does not know."""
        load_weights(self.model if model is None else model, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        """Load the weights of the best step and read them back."""
        best = self._checkpoint(self.state.best_global_step)
        damage = find_damage(best)
        raise_together(damage and f"The best checkpoint, {best.folder}, is damaged: {damage}.")
        load_weights(self.model, best.folder)


def _rank(evaluation: Mapping[str, float], name: str, sign: int) -> tuple[float, float]:
    """Return a key that orders evaluations: by the chosen field, then by the loss; NaN is worst."""
    values = (sign * evaluation[name], -evaluation.get("eval_loss", 0.0))
    return tuple(-float("inf") if math.isnan(value) else value for value in values)  # type: ignore[return-value]


def _start_worker(start: Callable[[int], None] | None, number: int) -> None:
    signals.ignore_in_worker()
    if start is not None:
        start(number)
