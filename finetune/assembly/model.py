"""Builds a model that is ready to learn from its options, in a fixed order."""

import logging
from dataclasses import dataclass

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import nn
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration, PaliGemmaProcessor, set_seed

from finetune.config.schema import RunConfig
from finetune.errors import UserError
from finetune.model.adapter import TrainedAdapter, continue_adapter, name_base, read_adapter
from finetune.model.compiling import plan_compilation
from finetune.model.freeze import apply_freeze
from finetune.model.learning import store_by_policy, store_what_learns
from finetune.model.load import load_model
from finetune.model.lora import Quantization, add_adapter
from finetune.model.options import Dtype, FreezePolicy, ModelConfig, PeftConfig, PeftMethod
from finetune.model.origin import Origin, find_origin
from finetune.model.provenance import check_base, describe_base
from finetune.model.surgery import operate
from finetune.model.table import count_parameters, describe_counts, format_table
from finetune.speed import Technique
from finetune.training.options import TrainerConfig

log = logging.getLogger(__name__)

_IN_BFLOAT16 = "Here: trainer.fp16=false trainer.bf16=true."


@dataclass(frozen=True)
class Learner:
    """A model that is ready to learn."""

    model: nn.Module
    """Loaded, frozen, adapted and changed by `operate`; the trainer moves it to its device."""
    processor: PaliGemmaProcessor
    """Processor of the checkpoint."""
    table: str
    """Learning, adapted and quantized parameters by tower, for the log."""
    parameters: dict[str, dict[str, int | str]]
    """The same for `metrics.json`."""
    origin: Origin
    """The base, for `environment.json`."""
    techniques: list[Technique]
    """What became of the shortcuts that change the model."""


def build_learner(config: RunConfig, checkpoint: PaliGemmaConfig, processor: PaliGemmaProcessor) -> Learner:
    """Load the base, freeze and adapt it, and change how it runs, in this order.

    Args:
        config: `seed`, `adapter...`, `model`, `freeze`, `peft` and `trainer` are read.
        checkpoint: configuration of the checkpoint; changed in place.
        processor: processor of the checkpoint.

    Raises:
        UserError: `trainer.fp16` without a GPU; see `load_model` and `freeze_and_adapt`.
    """
    # accelerate leaves autocast off there, without a word.
    if config.trainer.fp16 and PartialState().device.type == "cpu":
        raise UserError(f"trainer.fp16=true trains on GPUs alone. {_IN_BFLOAT16}")
    set_seed(config.seed)  # before the adapter's matrices are drawn
    options, freeze, peft, half = config.model, config.freeze, config.peft, half_dtype(config.trainer)
    adapter = read_continued(config, checkpoint, is_loaded=False)
    base = load_base(checkpoint, options, freeze, peft, half)
    if adapter is not None:
        check_adapter(config, checkpoint, adapter)
    origin = find_origin(options)
    model = freeze_and_adapt(base, options, freeze, peft, half, adapter, origin)
    techniques = operate(
        model,
        config.trainer.speed,
        llm_dropout=options.llm_dropout,
        activation_checkpointing=bool(config.trainer.activation_checkpointing),
        autocast=half is not None,
        sharding=find_sharding(config.trainer),
    )
    counts = count_parameters(model)
    return Learner(model, processor, format_table(counts), describe_counts(counts), origin, techniques)


def read_continued(
    config: RunConfig, checkpoint: PaliGemmaConfig, *, is_loaded: bool
) -> TrainedAdapter | None:
    """Read the adapter whose training a run continues; see `read_adapter_for`.

    Raises:
        UserError: the run trains no adapter.
    """
    if config.adapter is not None and config.peft.method == PeftMethod.none:
        raise UserError(
            f"adapter={config.adapter} with peft=none: the weights themselves would learn, without the "
            "adapter. Choose the peft= that it was trained with, or leave adapter= out."
        )
    return read_adapter_for(config, checkpoint, is_loaded=is_loaded)


def read_adapter_for(
    config: RunConfig, checkpoint: PaliGemmaConfig, *, is_loaded: bool
) -> TrainedAdapter | None:
    """Read the adapter that a run continues or uses, if any, and check that the base is its own.

    Args:
        config: `adapter...`, `model` and `peft` are read.
        checkpoint: configuration of the checkpoint.
        is_loaded: see `check_base`.

    Raises:
        UserError: see `read_adapter` and `check_base`.
    """
    if config.adapter is None:
        return None
    adapter = read_adapter(config.adapter, config.adapter_revision)
    check_adapter(config, checkpoint, adapter, is_loaded=is_loaded)
    return adapter


def check_adapter(
    config: RunConfig, checkpoint: PaliGemmaConfig, adapter: TrainedAdapter, *, is_loaded: bool = True
) -> None:
    """Check that a base is the one that an adapter was trained on; see `check_base`."""
    here = describe_base(config.model, checkpoint, config.peft)
    check_base(
        f"The adapter `{adapter.path}`", adapter.trained, here, config.adapter_base, is_loaded=is_loaded
    )


def load_base(
    checkpoint: PaliGemmaConfig,
    options: ModelConfig,
    freeze: FreezePolicy,
    peft: PeftConfig,
    half: torch.dtype | None,
    *,
    trained: bool = True,
) -> PaliGemmaForConditionalGeneration:
    """Load the base model, quantized as `peft.bits` says.

    Args:
        checkpoint: configuration of the checkpoint; changed in place.
        options: name the checkpoint.
        freeze: the parameters that may learn.
        peft: the method and the quantization.
        half: see `half_dtype`.
        trained: without an adapter, store the parameters that `freeze` lets learn in
            `model.learning_dtype`, because they will be or were trained. Otherwise the whole model is in
            `model.dtype`.

    Raises:
        UserError: bfloat16 weights are to be used under float16 on a CPU, which cannot; see `load_model`.
    """
    if half == torch.float16 and options.dtype == Dtype.bfloat16 and PartialState().device.type == "cpu":
        raise UserError(
            f"trainer.fp16=true with model.dtype=bfloat16 is computed on GPUs alone. {_IN_BFLOAT16}"
        )
    frozen, learning = getattr(torch, options.dtype), getattr(torch, options.learning_dtype)
    in_full = trained and peft.method == PeftMethod.none
    # Read in the wider of both formats, so that no parameter that learns is rounded first.
    model = load_model(
        options.path,
        checkpoint,
        revision=options.revision,
        dtype=torch.promote_types(frozen, learning) if in_full else frozen,
        attention=options.attention,
        final_logit_softcap=options.final_logit_softcap,
        quantization=None if peft.bits == 16 else Quantization(peft, half or torch.bfloat16),
        device=PartialState().device,
    )
    if in_full:
        store_by_policy(model, freeze, learning, frozen)
    return model


def freeze_and_adapt(
    base: PaliGemmaForConditionalGeneration,
    options: ModelConfig,
    freeze: FreezePolicy,
    peft: PeftConfig,
    half: torch.dtype | None,
    adapter: TrainedAdapter | None,
    origin: Origin | None = None,
) -> nn.Module:
    """Freeze the base, add a new adapter or one to continue, and convert parameters that learn.

    Args:
        base: changed in place.
        options: `learning_dtype` is read.
        freeze: the parameters that may learn.
        peft: the method.
        half: see `half_dtype`.
        adapter: a trained adapter to continue.
        origin: names the base in `adapter_config.json`.

    Raises:
        UserError: the settings do not fit the model, or the adapter does not fit the settings.
    """
    model: nn.Module = base
    if peft.method == PeftMethod.none:
        apply_freeze(base, freeze)
    else:
        model = add_adapter(base, freeze, peft)
        if origin is not None:
            name_base(model, origin)
        if adapter is not None:
            # It must have the run's rank, alpha and layers: `config.yaml` then says what learns.
            continue_adapter(model, adapter)
            log.info("continuing the adapter %s", adapter.path)
    store_what_learns(model, getattr(torch, options.learning_dtype), half)
    return model


def find_sharding(trainer: TrainerConfig) -> str | None:
    """Return the option that divides weights among devices, of the trainer or of accelerate's launcher."""
    by_option = (f"trainer.extra.{name}" for name in ("fsdp", "deepspeed") if trainer.extra.get(name))
    launched = (f"ACCELERATE_USE_{name}" for name in ("FSDP", "DEEPSPEED"))
    return next(by_option, next((name for name in launched if parse_flag_from_env(name)), None))


def settle_compilation(config: RunConfig, model: nn.Module) -> Technique:
    """Return whether the layers of a model are compiled while it trains; see `plan_compilation`.

    Args:
        config: `model` and `trainer` are read.
        model: as it will train.

    Raises:
        UserError: it was asked for and cannot be done.
    """
    trainer = config.trainer
    others = {
        "trainer.extra.torch_compile": trainer.extra.get("torch_compile"),
        "trainer.speed.packing": trainer.speed.packing,
    }
    other = next((name for name, is_on in others.items() if is_on), find_sharding(trainer))
    return plan_compilation(model, trainer.speed, other=other, drops=config.model.llm_dropout > 0)


def half_dtype(trainer: TrainerConfig) -> torch.dtype | None:
    """Return the autocast format of the trainer; None without autocast."""
    if trainer.fp16:
        return torch.float16
    return torch.bfloat16 if trainer.bf16 else None


def half_precision(trainer: TrainerConfig) -> torch.autocast:
    """Return the trainer's autocast context, which is disabled without bf16 and fp16."""
    half = half_dtype(trainer)
    return torch.autocast(PartialState().device.type, half or torch.bfloat16, enabled=half is not None)
