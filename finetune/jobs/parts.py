"""From the configuration to the model and what scores it; `examples.py` has the data."""

import logging
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from accelerate import PartialState
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.config.schema import PeftMethod, RunConfig
from finetune.data.collator import Collator
from finetune.data.dataset import ExampleDataset
from finetune.errors import UserError, printable
from finetune.evaluation.evaluate import Evaluation, evaluate
from finetune.evaluation.generate import UNKNOWN_LENGTH, Generation
from finetune.metrics.metric import Metric
from finetune.model.adapter import continue_adapter
from finetune.model.freeze import FreezePolicy, apply_freeze
from finetune.model.learning import store_by_policy, store_what_learns
from finetune.model.load import load_model
from finetune.model.lora import AdapterSettings, Quantization, add_adapter
from finetune.training.loss import compute_example_losses, supervised_positions

log = logging.getLogger(__name__)


class _BesideTheBar(logging.Handler):
    """Writes a line above a progress bar that is being drawn, instead of into it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


class _Printable(logging.Formatter):
    """Shows a line without what a terminal would obey: names and texts in it come from data."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _LogFile(logging.FileHandler):
    """The run's log. Where it cannot be written, the terminal says so once, and the run goes on."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Give up the file, as on a full disk; what must be written reports that by itself."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        logging.getLogger("finetune").removeHandler(self)
        print(f"warning: {self.baseFilename} cannot be written ({error})", file=sys.stderr)


def set_up_logging(file: Path | None = None) -> None:
    """Send our lines to the terminal and, in the main process, to a file; libraries only warn."""
    main = PartialState().is_main_process
    logger = logging.getLogger("finetune")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = False
    logger.setLevel(logging.INFO if main else logging.ERROR)
    handlers: list[logging.Handler] = [_BesideTheBar()]
    if file is not None and main:
        handlers.append(_LogFile(file, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(_Printable("%(message)s"))
        logger.addHandler(handler)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()


def freeze_policy(config: RunConfig) -> FreezePolicy:
    """Return the policy that `freeze` describes."""
    return FreezePolicy(**asdict(config.freeze))


def adapter_settings(config: RunConfig) -> AdapterSettings:
    """Return the adapter that `peft` describes."""
    names = AdapterSettings.__dataclass_fields__
    return AdapterSettings(**{name: getattr(config.peft, name) for name in names})


def quantization(config: RunConfig) -> Quantization | None:
    """Return the quantisation that `peft` describes; null for 16 bits."""
    if config.peft.bits == 16:
        return None
    return Quantization(
        bits=config.peft.bits,
        towers=tuple(config.peft.quantize),
        double_quant=config.peft.double_quant,
        compute_dtype=torch.float16 if config.trainer.fp16 else torch.bfloat16,
    )


def load_base(
    config: RunConfig, checkpoint: PaliGemmaConfig, learnt: bool = True
) -> PaliGemmaForConditionalGeneration:
    """Load the base model, quantised where `peft.bits` says so.

    Args:
        config: names it.
        checkpoint: its configuration; changed in place.
        learnt: without an adapter, store what `freeze` lets learn in `model.learning_dtype`: where it is
            about to learn, and where it has learnt. Otherwise all of it is in `model.dtype`.
    """
    frozen, learning = getattr(torch, config.model.dtype), getattr(torch, config.model.learning_dtype)
    in_full = learnt and config.peft.method == PeftMethod.none
    model = load_model(
        config.model.path,
        checkpoint,
        revision=config.model.revision,
        dtype=torch.promote_types(frozen, learning) if in_full else frozen,
        attention=config.model.attention,
        final_logit_softcap=config.model.final_logit_softcap,
        quantization=quantization(config),
        device=PartialState().device,
    )
    if in_full:
        store_by_policy(model, freeze_policy(config), learning, frozen)
    return model


def prepare_model(config: RunConfig, model: PaliGemmaForConditionalGeneration) -> nn.Module:
    """Freeze what is frozen, add what is adapted, or go on with an adapter, and store what learns in full.

    Raises:
        UserError: the settings do not fit the model, or the adapter does not fit the settings.
    """
    policy, learner = freeze_policy(config), model
    if config.peft.method == PeftMethod.none:
        if config.adapter is not None:
            raise UserError(
                f"adapter={config.adapter} with peft=none: the weights themselves would learn, without the "
                "adapter. Choose the peft= that it was trained with, or leave adapter= out."
            )
        apply_freeze(model, policy)
    else:
        learner = add_adapter(model, policy, adapter_settings(config))
        if config.adapter is not None:
            continue_adapter(learner, config.adapter, config.peft.bits)
            log.info("the adapter goes on from %s", config.adapter)
    store_what_learns(learner, getattr(torch, config.model.learning_dtype), half_dtype(config))
    return learner


def half_dtype(config: RunConfig) -> torch.dtype | None:
    """Return the format of the products under autocast; null where the trainer uses none."""
    if config.trainer.fp16:
        return torch.float16
    return torch.bfloat16 if config.trainer.bf16 else None


def half_precision(config: RunConfig) -> torch.autocast:
    """Return the context in which the model computes: bfloat16 or float16, as the trainer says."""
    half = half_dtype(config)
    return torch.autocast(PartialState().device.type, half or torch.bfloat16, enabled=half is not None)


Evaluator = Callable[[nn.Module], Evaluation]
"""Scores a model over the validation split."""


def build_evaluator(
    config: RunConfig,
    dataset: ExampleDataset,
    collator: Collator,
    processor: PaliGemmaProcessor,
    metric: Metric,
) -> Evaluator:
    """Bind split, metric, generation, precision and loss; the model comes when there is one."""
    options = config.evaluation
    generation = Generation(
        batch_size=options.batch_size,
        max_new_tokens=options.max_new_tokens or UNKNOWN_LENGTH,
        num_beams=options.num_beams,
        workers=config.trainer.dataloader_num_workers,
    )

    def losses(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        labels = batch.pop("labels")
        keep = supervised_positions(labels)
        logits = model(**batch, logits_to_keep=keep, use_cache=False).logits
        return compute_example_losses(logits, labels)

    def run(model: nn.Module) -> Evaluation:
        return evaluate(
            model,
            dataset,
            collator,
            processor.tokenizer,
            metric,
            generation,
            compute_loss=losses if options.loss else None,
            autocast=half_precision(config),
        )

    return run


def format_scores(scores: dict[str, Any]) -> str:
    """Lay scores out as one line; groups stand in metrics.json."""
    values = {name: value for name, value in scores.items() if not isinstance(value, dict)}
    return "  ".join(f"{name} {_format_number(value)}" for name, value in values.items())


def _format_number(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return "0" if abs(value) < 5e-5 else f"{value:.4g}"
