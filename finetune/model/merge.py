"""An adapter merged into its base: float32 arithmetic, one rounding, and a model without PEFT.

PEFT's own merge stores an adapter on quantized weights in 4 bits again, which loses much of what was
learned, and adds in the format of the base. Here each weight is computed in float32, from the values that
the adapter was trained on, and rounded once, to the format of the result.
"""

import copy
import logging
from collections.abc import Iterator

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.integrations import dequantize_module_weight
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

from finetune.errors import UserError
from finetune.model.load import list_differences

log = logging.getLogger(__name__)

ADAPTER = "default"
"""PEFT's name of the adapter that `load_adapter` loads."""


def unwrap(model: nn.Module) -> PaliGemmaForConditionalGeneration:
    """Return the PaliGemma in which PEFT has placed an adapter, or the model itself without one."""
    base: PaliGemmaForConditionalGeneration = (
        model.get_base_model() if isinstance(model, PeftModel) else model
    )
    return base


@torch.no_grad()
def merge(model: nn.Module, dtype: torch.dtype) -> PaliGemmaForConditionalGeneration:
    """Merge an adapter into its base.

    The model is used up: each of its weights is released as soon as the merged one is computed, so that the
    memory holds little more than the larger of both models.

    Args:
        model: a PaliGemma with an adapter, quantized or not; without one its weights are only converted.
        dtype: format of the result.

    Returns:
        A plain model on the CPU, to be saved. If the adapter has changed only one of two tied weights, they
        are no longer tied, and its configuration says so.

    Raises:
        UserError: an adapter of a kind that cannot be merged, or a merged weight is not finite.
    """
    base = unwrap(model)
    config, generation = _describe_plainly(base.config), copy.deepcopy(base.generation_config)
    names = {id(module): name for name, module in base.named_modules()}
    embedding, head = (
        f"{names[id(module)]}.weight"
        for module in (base.get_input_embeddings(), base.get_output_embeddings())
    )
    weights = {}
    for name, tensor in iterate_weights(base):
        if not torch.isfinite(tensor).all():
            raise UserError(
                f"`{name}` is not finite once it is merged: the adapter is damaged. Train again."
            )
        weights[name] = tensor.to("cpu", dtype)
    if config.tie_word_embeddings:
        if torch.equal(weights[embedding], weights[head]):
            weights[head] = weights[embedding]
        else:
            log.info("embedding and lm_head were trained apart: the merged model has both, untied")
            config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    with torch.device("meta"):
        merged = PaliGemmaForConditionalGeneration(config)
    expected = merged.state_dict()
    problems = list_differences(
        missing=expected.keys() - weights.keys(),
        unexpected=weights.keys() - expected.keys(),
        of_another_shape=[
            name for name in weights.keys() & expected.keys() if weights[name].shape != expected[name].shape
        ],
    )
    if problems:
        raise UserError(f"The adapter changes the architecture, so it cannot be merged: {problems}.")
    merged.load_state_dict(weights, assign=True)
    merged.tie_weights()
    if generation is not None:
        merged.generation_config = generation
    return merged.eval()


def _describe_plainly(config: PaliGemmaConfig) -> PaliGemmaConfig:
    """Return a copy of a configuration without its quantization."""
    plain: PaliGemmaConfig = copy.deepcopy(config)
    if hasattr(plain, "quantization_config"):
        del plain.quantization_config
    return plain


def iterate_weights(base: PaliGemmaForConditionalGeneration) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights that a model computes with, each under its name without adapter; uses up the model.

    Args:
        base: in which PEFT has placed an adapter, or a model without one.

    Yields:
        Adapted and quantized weights in float32, others as they are.

    Raises:
        UserError: an adapter of a kind that cannot be merged.
    """
    inside = ""
    for name, module in base.named_modules():
        if inside and name.startswith(inside):
            continue
        inside = ""
        if isinstance(module, LoraLayer):
            inside = f"{name}."
            weight, bias = merge_layer(name, module)
            yield f"{name}.weight", weight
            if bias is not None:
                yield f"{name}.bias", bias
            module.get_base_layer().weight = None  # released
        elif isinstance(module, ModulesToSaveWrapper):
            inside = f"{name}."
            copied = module.modules_to_save[ADAPTER]
            yield from ((f"{name}.{key}", value) for key, value in copied.state_dict().items())
        elif isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            raise UserError(f"`{name}`: adapters of the kind {type(module).__name__} cannot be merged.")
        else:
            for key, value in module.named_parameters(recurse=False):
                tensor = value if value.is_floating_point() else read_weight(module)
                yield f"{name}.{key}", tensor.detach()


def read_weight(layer: nn.Module) -> Tensor:
    """Return the weight that a layer computes with: (out, in), float32 if it is stored quantized."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if weight.is_floating_point():
        return weight.detach()
    return dequantize_module_weight(layer).detach().float()


def merge_layer(name: str, layer: LoraLayer) -> tuple[Tensor, Tensor | None]:
    """Compute the weight and the bias of a layer with its adapter: float32, rounded nowhere.

    LoRA adds `scaling * B @ A`, where scaling is alpha / r, for rsLoRA alpha / sqrt(r). DoRA then gives
    each row, the weights of one output, the length that was learned as its magnitude.

    Args:
        name: of the layer, for messages.
        layer: a linear layer or an embedding with its adapter.

    Raises:
        UserError: the layer or its adapter is of another kind.

    Source: https://arxiv.org/abs/2402.09353, equation 5, for DoRA.
    """
    base = layer.get_base_layer()
    has_magnitude = ADAPTER in layer.lora_magnitude_vector
    # DoRA is one of PEFT's variants; others cannot be written as a weight.
    is_known = ADAPTER not in layer.lora_variant or has_magnitude
    if (
        not isinstance(base, nn.Linear | nn.Embedding)
        or not is_known
        or (isinstance(base, nn.Embedding) and has_magnitude)
    ):
        raise UserError(
            f"`{name}`: only LoRA, DoRA and rsLoRA of linear layers, and LoRA of embeddings, can be "
            f"merged, but this is {type(layer).__name__} of {type(base).__name__}."
        )
    if isinstance(base, nn.Embedding):
        down, up = layer.lora_embedding_A[ADAPTER], layer.lora_embedding_B[ADAPTER]
        return base.weight.float() + layer.scaling[ADAPTER] * (up.float() @ down.float()).T, None
    down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    weight = read_weight(base).float() + layer.scaling[ADAPTER] * (up.float() @ down.float())
    if has_magnitude:
        magnitude = layer.lora_magnitude_vector[ADAPTER].weight.float()
        weight *= (magnitude / torch.linalg.vector_norm(weight, dim=1))[:, None]
    bias = None if base.bias is None else base.bias.detach()
    if layer.lora_bias[ADAPTER]:
        change = layer.scaling[ADAPTER] * layer.lora_B[ADAPTER].bias.float()
        bias = change if bias is None else bias.float() + change
    return weight, bias
