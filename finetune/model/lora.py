"""Adapters, and the quantized weights that they adapt.

PEFT and bitsandbytes ignore wrong names without an error, so the result is read back and checked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import bitsandbytes as bnb
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import BitsAndBytesConfig, PaliGemmaForConditionalGeneration

from finetune.errors import UserError, suggest
from finetune.model.copies import find_copied_modules, share_settings, ties_embedding
from finetune.model.freeze import count_layers
from finetune.model.options import FreezePolicy, PeftConfig
from finetune.model.towers import Tower


@dataclass(frozen=True)
class Quantization:
    """Weights stored in 4 bits (NF4) or 8 (LLM.int8).

    Args:
        options: their `bits`, `quantize` and `double_quant`; `bits` is not 16.
        compute_dtype: format of the products.
    """

    options: PeftConfig
    compute_dtype: torch.dtype = torch.bfloat16

    def to_config(self) -> BitsAndBytesConfig:
        """Return the argument of `from_pretrained`."""
        # transformers matches these from the start of a module's full name: `vision_tower` alone
        # would not skip anything.
        skipped = [f".*{tower}" for tower in Tower if tower not in self.options.quantize]
        return BitsAndBytesConfig(
            load_in_4bit=self.options.bits == 4,
            load_in_8bit=self.options.bits == 8,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=self.options.double_quant,
            bnb_4bit_compute_dtype=self.compute_dtype,
            llm_int8_skip_modules=[*skipped, ".*lm_head"],
        )

    def assert_on(self, model: nn.Module) -> None:
        """Check the quantization of the loaded model.

        Raises:
            RuntimeError: a layer is not stored or computed as asked.
        """
        for name, module in model.named_modules():
            if not isinstance(module, nn.Linear):
                continue
            expected = self.options.quantizes(name)
            kind = bnb.nn.Linear4bit if self.options.bits == 4 else bnb.nn.Linear8bitLt
            if isinstance(module, kind) != expected:
                raise RuntimeError(f"{name}: quantized={not expected}, asked for {expected}")
            if isinstance(module, bnb.nn.Linear4bit):
                state = module.weight.quant_state
                actual = (module.compute_dtype, state.quant_type, state.nested)
                if actual != (self.compute_dtype, "nf4", self.options.double_quant):
                    raise RuntimeError(f"{name}: computes in {actual}, asked for {self}")

    def keep_gradients_on_cpu(self, model: nn.Module) -> None:
        """Keep bitsandbytes from repacking NF4 weights for CPU inference.

        In evaluation it repacks them for good, for a kernel without a backward pass: every later
        training step would silently drop the gradients that flow through the layer.
        """
        for module in model.modules():
            if isinstance(module, bnb.nn.Linear4bit):
                module.support_avx512bf16_for_cpu = False


def find_targets(
    model: PaliGemmaForConditionalGeneration, policy: FreezePolicy, target_modules: Sequence[str]
) -> list[str]:
    """Return the full names of the layers that get an adapter.

    Args:
        model: the base.
        policy: towers that it freezes get no adapter.
        target_modules: last parts of the names.

    Raises:
        UserError: no layer has such a name, or the policy freezes all that have.
    """
    layers = count_layers(model)
    policy.check(layers)
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and "lm_head" not in name
    ]
    known = sorted({name.rpartition(".")[2] for name in linear})
    for target in target_modules:
        if target not in known:
            raise UserError(
                f"peft.target_modules: no linear layer is called `{target}`."
                f"{suggest(target, known)} There are: {', '.join(known)}."
            )
    targets = [
        name
        for name in linear
        if name.rpartition(".")[2] in target_modules and policy.learns(f"{name}.weight", layers)
    ]
    if not targets:
        raise UserError(
            f"No layer gets an adapter: `freeze` leaves none of {', '.join(target_modules)}. "
            "Choose other peft.target_modules (the projector's is `linear`), another freeze=, or "
            "peft=none."
        )
    return targets


def add_adapter(
    model: PaliGemmaForConditionalGeneration, policy: FreezePolicy, options: PeftConfig
) -> PeftModel:
    """Freeze the base and add an adapter to each chosen layer.

    Returns:
        The model; only the adapters and the copies of `modules_to_save` learn.

    Raises:
        UserError: see `find_targets` and `find_copied_modules`.
        RuntimeError: PEFT adapted other layers than the targets.
    """
    targets = find_targets(model, policy, options.target_modules)
    copied = find_copied_modules(model, options.modules_to_save, targets)
    config = LoraConfig(
        r=options.r,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        # Full names: PEFT matches short ones at the end of any name, in frozen towers too.
        target_modules=targets,
        modules_to_save=copied or None,
        ensure_weight_tying=ties_embedding(model, copied),
        use_dora=options.use_dora,
        use_rslora=options.use_rslora,
        # PEFT's task types choose an auto class, and none of them loads a PaliGemma. Without one PEFT
        # saves the base's class as `auto_mapping`, by which `AutoPeftModel` loads it.
        task_type=None,
    )
    adapted: PeftModel = get_peft_model(model, config)
    assert_adapter(adapted, targets)
    share_settings(adapted)
    # PEFT keeps a set, whose order in the file would be another in each process.
    config.target_modules = sorted(targets)
    # PEFT would look the base up on the Hub at each save, to see whether its vocabulary has changed.
    adapted.save_pretrained = partial(adapted.save_pretrained, save_embedding_layers=False)
    return adapted


def assert_adapter(model: PeftModel, targets: Sequence[str]) -> None:
    """Check that exactly the targets carry an adapter.

    Raises:
        RuntimeError: they do not.
    """
    base = model.get_base_model()
    adapted = {name for name, module in base.named_modules() if isinstance(module, LoraLayer)}
    if adapted != set(targets):
        difference = sorted(adapted ^ set(targets))[:5]
        raise RuntimeError(f"PEFT adapted other layers than asked, such as {difference}")
