"""transformers' Trainer with PaliGemma's loss, order of examples, optimiser groups and evaluation."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import Trainer, TrainerControl, TrainingArguments
from transformers.trainer_utils import rotate_checkpoints

from finetune.data.collator import Collator
from finetune.data.dataset import ExampleDataset
from finetune.errors import UserError
from finetune.training.loss import compute_example_losses, count_items, supervised_positions
from finetune.training.optimizer import TowerRates, build_parameter_groups
from finetune.training.order import ExampleStream

log = logging.getLogger(__name__)


class PaliGemmaTrainer(Trainer):
    """Trains a PaliGemma, or an adapter beside one.

    Args:
        model: the model, its `requires_grad` already set.
        args: with `max_steps` set.
        data_collator: makes the batches.
        train_dataset: the examples.
        loss_average: `example` or `token`.
        label_smoothing: the paper's.
        towers: exceptions to learning rate and weight decay.
        parts: of a mixture: name -> number of examples and weight, in the order of the split.
        evaluate_split: scores the model; called by all processes at once.
        mark_complete: called by one process when a checkpoint's folder is whole.
        callbacks: transformers' callbacks.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        data_collator: Collator,
        train_dataset: ExampleDataset,
        *,
        loss_average: str = "example",
        label_smoothing: float = 0.0,
        towers: Mapping[str, TowerRates] | None = None,
        parts: Mapping[str, tuple[int, float]] | None = None,
        evaluate_split: Callable[[nn.Module], dict[str, float]] | None = None,
        mark_complete: Callable[[Path], None] | None = None,
        callbacks: list[Any] | None = None,
    ) -> None:
        self.loss_average = loss_average
        self.label_smoothing = label_smoothing
        self.towers = dict(towers or {})
        self.parts = dict(parts or {"": (len(train_dataset), 1.0)})
        self.evaluate_split = evaluate_split
        self.mark_complete = mark_complete
        self._unchecked: list[tuple[int, list[str], Tensor]] = []
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            # Trainer insists on a data set where it evaluates; `evaluate` below has its own.
            eval_dataset=train_dataset if evaluate_split else None,
            callbacks=callbacks,
        )
        # `compute_loss` divides by the items of the whole accumulated batch itself.
        self.loss_is_scaled_for_ga = True

    @property
    def global_batch(self) -> int:
        """Examples in one optimiser step, over all processes."""
        accumulation: int = self.args.gradient_accumulation_steps
        return int(self._train_batch_size * accumulation * self.accelerator.num_processes)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[tuple[int, int]]:
        draws = self.args.max_steps * self.global_batch
        sizes, weights = zip(*self.parts.values(), strict=True)
        return ExampleStream(sizes, draws, self.args.seed, weights)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> Tensor:
        """Count the examples (or tokens) of one optimiser step over all processes."""
        own = sum(count_items(batch["labels"], self.loss_average) for batch in batch_samples)
        return self.accelerator.gather(torch.as_tensor(own, device=device)).sum()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Return this micro-batch's share of the loss of one optimiser step.

        Summed over the micro-batches and averaged over the processes, as DistributedDataParallel
        averages gradients, the shares are the mean over the whole batch.
        """
        labels = inputs["labels"]
        model_inputs = {name: inputs[name] for name in inputs if name not in {"ids", "labels"}}
        outputs = model(**model_inputs, logits_to_keep=supervised_positions(labels), use_cache=False)
        by_example = self.loss_average == "example"
        losses = compute_example_losses(outputs.logits, labels, self.label_smoothing, mean=by_example)
        items = count_items(labels, self.loss_average)
        if num_items_in_batch is not None:
            items = num_items_in_batch / self.accelerator.num_processes
        loss = losses.sum() / items
        if model.training:
            self._unchecked.append((self.state.global_step + 1, inputs["ids"], loss.detach()))
        return (loss, outputs) if return_outputs else loss

    def check_finite(self) -> None:
        """Raise if a loss since the last check was NaN or infinite.

        Checked when something is logged or saved: a look at every step would make the GPU wait.

        Raises:
            UserError: names the step and the examples of its batch.
        """
        if not self._unchecked:
            return
        finite = torch.isfinite(torch.stack([loss for _, _, loss in self._unchecked])).tolist()
        for (step, ids, loss), fine in zip(self._unchecked, finite, strict=True):
            if not fine:
                raise UserError(
                    f"The loss is {loss.item()} at step {step}, on the examples {', '.join(ids)}. "
                    "Nothing was saved since. Look at these examples; with fp16 choose "
                    "trainer.bf16=true, else lower trainer.learning_rate."
                )
        self._unchecked.clear()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log with the epoch counted in examples: to Trainer the whole run is one pass."""
        self.check_finite()
        self.state.epoch = self.state.global_step * self.global_batch / len(self.train_dataset)
        super().log(logs, start_time)

    optimizer: torch.optim.Optimizer | None
    control: TrainerControl

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Build the optimiser over the towers' parameter groups."""
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
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Score the validation split by generation."""
        self.check_finite()
        if self.evaluate_split is None:
            raise ValueError("this trainer was built without evaluate_split")
        scores = self.evaluate_split(self.accelerator.unwrap_model(self.model))
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in scores.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save, mark the folder as whole, and only then delete older ones."""
        self.check_finite()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            if self.mark_complete is not None:
                self.mark_complete(folder)
            rotate_checkpoints(
                output_dir=self.args.output_dir,
                save_total_limit=limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=False,
            )
