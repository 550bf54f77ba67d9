"""The memory that a training step needs at its peak on one device, computed without weights or device.

Weights, gradients and optimizer state follow from the parameters. What the layers keep for the backward
pass, and what they need while they run, is counted on fake tensors (`layer_memory.py`). A step is then gone
through in its order, since not everything is there at once: the activations are there when the loss is
computed, the gradients when the activations are gone.
"""

import copy
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PaliGemmaConfig

from finetune.model.kernels import assume_kernel
from finetune.model.last_layer import compute_supervised_rows, computes_supervised_rows
from finetune.model.layer_memory import Bytes, LayerInput, count_head, count_layer, hidden_dtype
from finetune.model.options import PeftConfig
from finetune.model.table import stored_bytes
from finetune.model.towers import Tower, tower_of

_LAYER = re.compile(r"\.(encoder|language_model)\.layers\.(\d+)$")

_HOLES = 0.7
"""Bytes lost between the blocks of glibc's heap, for each byte that is kept in them: measured, with rows of
different lengths (`benchmarks/memory.py`)."""


@dataclass(frozen=True)
class StepMemory:
    """Bytes of a step at its peak, by what needs them."""

    weights: int
    gradients: int
    """Those that exist at the peak."""
    optimizer: int
    activations: int
    """What is kept for the backward pass and what a layer needs while it runs, by all examples."""
    logits: int
    process: int = 0
    """Of the process itself: the CUDA context, or torch and the other libraries on a CPU."""

    @property
    def total(self) -> int:
        """Sum of all."""
        return sum(int(getattr(self, field.name)) for field in fields(self))

    @property
    def allocated(self) -> int:
        """What torch's allocator holds of it, as `torch.cuda.max_memory_allocated` counts."""
        return self.total - self.process


@dataclass(frozen=True)
class StepShape:
    """One forward pass on one device."""

    examples: int
    image_tokens: int
    """Of one example, over all its images."""
    text_tokens: int
    """Of one example, at most: all others are padded to it."""
    supervised_tokens: int
    """Of one example, at most."""
    images: int = 1
    """Of one example."""
    image_bytes: int = 0
    """Of one image in the batch, pixels or features; with what a tower that learns keeps of them."""
    supervised_mean: float | None = None
    """Supervised tokens of the other examples of a batch; None: as many as the longest has."""

    @property
    def supervised_rows(self) -> int:
        """Supervised tokens of the batch."""
        mean = self.supervised_tokens if self.supervised_mean is None else self.supervised_mean
        return self.supervised_tokens + round((self.examples - 1) * mean)


@dataclass(frozen=True)
class StepSettings:
    """How a step is taken."""

    optimizer: str = "adamw_torch"
    """`trainer.optim`."""
    half: torch.dtype | None = None
    """Data type of autocast; None without autocast."""
    attention: str = "auto"
    """`model.attention`; see `assume_kernel`."""
    on_gpu: bool = True
    process: int = 0
    """See `StepMemory`."""


class _Layer(NamedTuple):
    """A layer through which a gradient flows."""

    module: nn.Module
    tower: Tower
    number: int
    """In its tower."""
    learning: int
    """Bytes of its parameters that learn."""
    kind: tuple[object, ...]
    """Layers of one kind need the same memory."""


class _Kept(NamedTuple):
    """What a layer needs in a step."""

    layer: _Layer
    counted: Bytes
    kept: int
    """Bytes from its forward to its backward pass."""
    is_recomputed: bool


class MemoryEstimate:
    """Estimates steps of one model; what was counted for one batch serves for others.

    Args:
        model: on the meta device, frozen, adapted and changed as for the run.
        config: of the model.
        planned: says which weights will be quantized.
        settings: how the steps are taken.
    """

    def __init__(
        self, model: nn.Module, config: PaliGemmaConfig, planned: PeftConfig, settings: StepSettings
    ) -> None:
        self.config, self.settings = config, settings
        parameters = dict(model.named_parameters())
        learning = {name: weight for name, weight in parameters.items() if weight.requires_grad}
        self._learning = {name: weight.numel() * weight.element_size() for name, weight in learning.items()}
        self._states = sum(_state_bytes(settings.optimizer, weight) for weight in learning.values())
        self._weights, self._unpacked = _weigh(parameters, planned)
        self._embedding = sum(size for name, size in self._learning.items() if "embed_tokens" in name)
        self._head = next(part for name, part in model.named_modules() if name.endswith("lm_head"))
        self._layers = list(_list_layers(model, list(learning)))
        self._dtype = hidden_dtype(compute_supervised_rows(model).layers[0])
        self._counted: dict[object, Bytes] = {}

    def with_settings(self, *, on_gpu: bool, process: int) -> "MemoryEstimate":
        """Return the estimate for another device; what was counted is the same."""
        other = copy.copy(self)
        other.settings = replace(self.settings, on_gpu=on_gpu, process=process)
        return other

    def estimate(
        self, shape: StepShape, checkpoint_every: int | None = None, *, accumulates: bool = False
    ) -> StepMemory:
        """Return the memory of a step.

        Args:
            shape: examples and tokens.
            checkpoint_every: every k-th layer keeps its input only; None: no layer does.
            accumulates: gradients of earlier forward passes are there from the beginning, or the buffers in
                which several processes add theirs.
        """
        stages = self._list_stages(shape, checkpoint_every)
        gradients, activations, logits = max(stages, key=sum)
        everything = sum(self._learning.values())
        memory = StepMemory(
            weights=self._weights,
            gradients=everything if accumulates else gradients,
            optimizer=self._states,
            activations=activations + self._unpacked + self._input_bytes(shape),
            logits=logits,
            process=self.settings.process,
        )
        update = _update_bytes(self.settings, self._learning.values())
        updating = replace(memory, gradients=everything, logits=0, activations=update)
        return max(memory, updating, key=lambda moment: moment.total)

    def _list_stages(self, shape: StepShape, every: int | None) -> Iterator[tuple[int, int, int]]:
        """Yield gradients, activations and logits at each moment that may be the peak.

        First the loss, then each layer from the last to the first, then the embedding, whose gradient is
        added to that of the output layer, which has the same weights.
        """
        layers = [self._count_layer(layer, shape, every) for layer in self._layers]
        activations = sum(layer.kept for layer in layers)
        rows = shape.supervised_rows
        head = self._remember(rows, lambda: count_head(self._head, rows, self.config, self.settings.half))
        # A layer that is not recomputed needs its copies in the backward pass: they are counted with it.
        copies = sum(layer.counted.copies for layer in layers if layer.is_recomputed)
        yield 0, activations + copies, head.most
        gradients = self._embedding
        for layer in reversed(layers):
            activations -= layer.kept
            yield gradients, activations + layer.counted.most + layer.is_recomputed * layer.kept, 0
            gradients += layer.layer.learning
        yield sum(self._learning.values()), self._embedding, 0

    def _count_layer(self, layer: _Layer, shape: StepShape, every: int | None) -> _Kept:
        supervised = shape.supervised_tokens if computes_supervised_rows(layer.module) else None
        given = self._describe_input(layer.tower, shape, supervised)
        count = self._remember(
            (layer.kind, given),
            lambda: count_layer(layer.module, given, self.config, self.settings.half),
        )
        is_recomputed = every is not None and layer.number % every == 0 and supervised is None
        kept, small = count.kept, count.small
        if is_recomputed:
            width = self._width(layer.tower)
            kept = small = shape.examples * given.tokens * width * hidden_dtype(layer.module).itemsize
        holes = 0 if self.settings.on_gpu else int(_HOLES * small)
        return _Kept(layer, count, kept + holes, is_recomputed)

    def _remember(self, key: object, count: Callable[[], Bytes]) -> Bytes:
        if key not in self._counted:
            self._counted[key] = count()
        return self._counted[key]

    def _describe_input(self, tower: Tower, shape: StepShape, supervised: int | None = None) -> LayerInput:
        tokens = _tokens(tower, shape)
        kernel = assume_kernel(
            self.config.text_config, tokens, self.settings.attention, on_gpu=self.settings.on_gpu
        )
        return LayerInput(tower, shape.examples, tokens, supervised, kernel, shape.image_tokens)

    def _input_bytes(self, shape: StepShape) -> int:
        """Return the bytes of images, mask and embeddings, which are there during the whole step."""
        given = self._describe_input(Tower.language_model, shape)
        images = shape.examples * shape.images * shape.image_bytes
        mask = math.prod(given.mask_shape) * (self._dtype.itemsize if given.kernel == "eager" else 1)
        embeddings = shape.examples * given.tokens * self._width(Tower.language_model)
        return images + mask + embeddings * self._dtype.itemsize

    def _width(self, tower: Tower) -> int:
        part = self.config.vision_config if tower == Tower.vision_tower else self.config.text_config
        return int(part.hidden_size)


def _weigh(parameters: Mapping[str, nn.Parameter], planned: PeftConfig) -> tuple[int, int]:
    """Return the bytes of all weights, and of the largest one that is unpacked when it is used."""
    weights = sum(stored_bytes(name, weight, planned) for name, weight in parameters.items())
    packed = [
        weight.numel()
        for name, weight in parameters.items()
        if planned.bits == 4
        and stored_bytes(name, weight, planned) < weight.numel() * weight.element_size()
    ]
    return weights, 2 * max(packed, default=0)


def _list_layers(model: nn.Module, learning: list[str]) -> Iterator[_Layer]:
    """Yield the layers that keep something, in their order.

    A layer keeps nothing if neither it nor what comes before it learns.
    """
    flows = _find_flows(learning)
    for name, module in model.named_modules():
        if not (match := _LAYER.search(name)):
            continue
        tower = Tower.vision_tower if match[1] == "encoder" else Tower.language_model
        weights = list(module.parameters())
        learns = tuple(weight.requires_grad for weight in weights)
        flows[tower] |= any(learns)
        if not flows[tower]:
            continue
        trained = [weight for weight in weights if weight.requires_grad]
        yield _Layer(
            module,
            tower,
            int(match[2]),
            learning=sum(weight.numel() * weight.element_size() for weight in trained),
            kind=(tower, learns, computes_supervised_rows(module)),
        )


def _state_bytes(optimizer: str, parameter: Tensor) -> int:
    """Return the bytes of the optimizer's state of a parameter: two moments, unless its name says less."""
    if optimizer in {"sgd", "adafactor"}:
        return 0
    return parameter.numel() * (2 if "8bit" in optimizer else 2 * parameter.element_size())


def _update_bytes(settings: StepSettings, learning: Collection[int]) -> int:
    """Return what the optimizer needs besides its state while it changes the weights.

    On a GPU torch updates all weights at once, with a copy of their size; a fused optimizer has none.
    """
    if "fused" in settings.optimizer or "8bit" in settings.optimizer:
        return 0
    everything = settings.on_gpu and settings.optimizer.startswith("adamw_torch")
    return sum(learning) if everything else 2 * max(learning, default=0)


def _find_flows(learning: list[str]) -> dict[Tower, bool]:
    """Return for each tower whether a gradient flows through its first layer to what learns before it."""
    embeddings = {tower_of(name) for name in learning if ".layers." not in name}
    vision = any(tower_of(name) == Tower.vision_tower for name in learning)
    return {
        Tower.vision_tower: Tower.vision_tower in embeddings,
        Tower.language_model: vision or bool(embeddings),
    }


def _tokens(tower: Tower, shape: StepShape) -> int:
    return shape.image_tokens + (shape.text_tokens if tower == Tower.language_model else 0)


def format_memory(memory: StepMemory, shape: StepShape, device: str) -> str:
    """Describe the memory of a step on a CPU or a GPU in a line."""
    parts: Mapping[str, int] = {
        "weights": memory.weights,
        "gradients and optimizer": memory.gradients + memory.optimizer,
        f"activations of {shape.examples} example{'s' * (shape.examples != 1)}": memory.activations,
        "logits": memory.logits,
        "process": memory.process,
    }
    listed = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in parts.items() if size)
    return (
        f"memory of a step on this {device}, computed: {memory.total / 2**30:.1f} GiB ({listed}), with "
        f"{shape.image_tokens} image tokens and at most {shape.text_tokens} text tokens an example"
    )
