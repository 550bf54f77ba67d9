"""The memory that a training step needs on one device, computed without weights and without a device.

Weights, gradients and optimizer state follow from the parameters. Activations are counted: one layer of
each kind runs forward on fake tensors, which have shapes and no content, and every tensor that autograd
saves for the backward pass is added up.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from transformers import PaliGemmaConfig

from finetune.model.last_layer import compute_supervised_rows
from finetune.model.options import PeftConfig
from finetune.model.table import is_linear_weight
from finetune.model.towers import Tower, tower_of

_LAYER = re.compile(r"\.(encoder|language_model)\.layers\.(\d+)$")

_SCALES = {(4, True): 0.127, (4, False): 0.5, (8, False): 0.01, (8, True): 0.01}
"""Bits of NF4's scales for each weight, with and without double quantization; LLM.int8 has one per row.
Source: https://arxiv.org/abs/2305.14314, section 3."""

_LOGIT_BYTES = 14
"""Bytes of each logit: bfloat16, and three times float32 in the loss and its gradient."""


@dataclass(frozen=True)
class StepMemory:
    """Bytes of a step, by what needs them."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """Saved for the backward pass, by all examples of a forward pass."""
    logits: int

    @property
    def total(self) -> int:
        """Sum of all; the CUDA context and the allocator's gaps come on top, about 1 GiB."""
        return sum(int(getattr(self, field.name)) for field in fields(self))


@dataclass(frozen=True)
class StepShape:
    """One forward pass on one device."""

    examples: int
    image_tokens: int
    """Of one example, over all its images."""
    text_tokens: int
    """Of one example, at most."""
    supervised_tokens: int
    """Of one example, at most."""


def estimate_memory(
    model: nn.Module,
    config: PaliGemmaConfig,
    planned: PeftConfig,
    shape: StepShape,
    *,
    optimizer: str,
    half: torch.dtype | None,
    checkpointing: bool,
) -> StepMemory:
    """Return the memory of a training step.

    Args:
        model: on the meta device, frozen and adapted as for the run.
        config: of the model.
        planned: says which weights will be quantized.
        shape: examples and tokens.
        optimizer: `trainer.optim`.
        half: data type of autocast; None without autocast.
        checkpointing: only the inputs of each layer are kept.
    """
    weights = gradients = states = 0
    for name, parameter in model.named_parameters():
        size = parameter.numel()
        bits = 8.0 * parameter.element_size()
        if planned.quantizes(name) and is_linear_weight(name, parameter) and "lora_" not in name:
            bits = planned.bits + _SCALES[planned.bits, planned.double_quant]
        weights += int(size * bits / 8)
        if parameter.requires_grad:
            gradients += size * parameter.element_size()
            states += size * _state_bytes(optimizer, parameter)
    activations = count_activations(model, config, shape, half, checkpointing)
    logits = shape.examples * shape.supervised_tokens * config.text_config.vocab_size * _LOGIT_BYTES
    return StepMemory(weights, gradients, states, activations, logits)


def _state_bytes(optimizer: str, parameter: Tensor) -> int:
    """Return the bytes of the optimizer's state for each weight: two moments, unless its name says less."""
    if optimizer in {"sgd", "adafactor"}:
        return 0
    return 2 if "8bit" in optimizer else 2 * parameter.element_size()


def count_activations(
    model: nn.Module,
    config: PaliGemmaConfig,
    shape: StepShape,
    half: torch.dtype | None,
    checkpointing: bool,
) -> int:
    """Return the bytes that all layers save for the backward pass.

    A layer saves nothing if neither it nor what comes before it learns.
    """
    counted: dict[tuple[object, ...], int] = {}
    total = largest = 0
    learning = [name for name, weight in model.named_parameters() if weight.requires_grad]
    flows = _find_flows(learning)
    last = compute_supervised_rows(model).layers[-1]
    for name, layer in model.named_modules():
        if not (match := _LAYER.search(name)):
            continue
        tower = Tower.vision_tower if match[1] == "encoder" else Tower.language_model
        learns = tuple(weight.requires_grad for weight in layer.parameters())
        flows[tower] |= any(learns)
        if not flows[tower]:
            continue
        key = (tower, learns, layer is last)
        if key not in counted:
            counted[key] = _count_layer(layer, tower, config, shape, half, layer is last)
        if checkpointing:
            total += _hidden_bytes(layer, tower, config, shape)
            largest = max(largest, counted[key])
        else:
            total += counted[key]
    return total + largest


def _find_flows(learning: list[str]) -> dict[Tower, bool]:
    """Return for each tower whether a gradient flows through its first layer to what learns before it."""
    embeddings = {tower_of(name) for name in learning if ".layers." not in name}
    vision = any(tower_of(name) == Tower.vision_tower for name in learning)
    return {
        Tower.vision_tower: Tower.vision_tower in embeddings,
        Tower.language_model: vision or bool(embeddings),
    }


def _hidden_bytes(layer: nn.Module, tower: Tower, config: PaliGemmaConfig, shape: StepShape) -> int:
    tokens, width = _tokens(tower, shape), _width(tower, config)
    return shape.examples * tokens * width * _dtype(layer).itemsize


def _count_layer(
    layer: nn.Module,
    tower: Tower,
    config: PaliGemmaConfig,
    shape: StepShape,
    half: torch.dtype | None,
    is_last: bool,
) -> int:
    """Return the bytes that one layer saves; at one and two examples, to know what grows with the batch."""
    one, two = (_saved_bytes(layer, tower, config, shape, half, is_last, examples) for examples in (1, 2))
    return one + (shape.examples - 1) * (two - one)


def _saved_bytes(
    layer: nn.Module,
    tower: Tower,
    config: PaliGemmaConfig,
    shape: StepShape,
    half: torch.dtype | None,
    is_last: bool,
    examples: int,
) -> int:
    tokens, dtype = _tokens(tower, shape), _dtype(layer)
    saved: dict[int, Tensor] = {}
    with FakeTensorMode():
        weights = {
            name: torch.empty(weight.shape, dtype=weight.dtype).requires_grad_(weight.requires_grad)
            for name, weight in [*layer.named_parameters(), *layer.named_buffers()]
        }
        hidden = torch.empty(examples, tokens, _width(tower, config), dtype=dtype).requires_grad_()
        inputs: dict[str, object] = {"attention_mask": None}
        shared = list(weights.values())
        if tower == Tower.language_model:
            angles = torch.empty(1, tokens, config.text_config.head_dim, dtype=dtype)
            mask = torch.empty(examples, 1, tokens, tokens, dtype=dtype)
            inputs = {"attention_mask": mask, "position_embeddings": (angles, angles)}
            shared += [angles, mask]  # one for all layers
        if is_last:
            columns = torch.zeros(examples, shape.supervised_tokens, dtype=torch.int64)
            inputs |= {"supervised_columns": columns, "supervised_places": columns.flatten()}
        known = {tensor.untyped_storage()._cdata for tensor in shared}

        def save(tensor: Tensor) -> Tensor:
            if (storage := tensor.untyped_storage()._cdata) not in known:
                saved[storage] = tensor
            return tensor

        autocast = torch.autocast("cpu", half or torch.bfloat16, enabled=half is not None)
        with saved_tensors_hooks(save, lambda tensor: tensor), autocast:
            functional_call(layer, weights, (hidden,), inputs)
        return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


def _tokens(tower: Tower, shape: StepShape) -> int:
    return shape.image_tokens + (shape.text_tokens if tower == Tower.language_model else 0)


def _width(tower: Tower, config: PaliGemmaConfig) -> int:
    part = config.vision_config if tower == Tower.vision_tower else config.text_config
    return int(part.hidden_size)


def _dtype(layer: nn.Module) -> torch.dtype:
    """Return the format of the hidden states: that of the norms."""
    return next(weight.dtype for name, weight in layer.named_parameters() if "norm" in name)


def format_memory(memory: StepMemory, shape: StepShape) -> str:
    """Describe the memory of a step in a line."""
    parts: Mapping[str, int] = {
        "weights": memory.weights,
        "gradients and optimizer": memory.gradients + memory.optimizer,
        f"activations of {shape.examples} example{'s' * (shape.examples != 1)}": memory.activations,
        "logits": memory.logits,
    }
    listed = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in parts.items())
    return (
        f"memory of a step, computed: {memory.total / 2**30:.1f} GiB ({listed}), with "
        f"{shape.image_tokens} image tokens and at most {shape.text_tokens} text tokens an example"
    )
