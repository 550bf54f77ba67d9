"""Floating-point operations of a training step, from the configuration alone.

A multiplication with its addition counts as two. *Useful* is what the gradient needs, whatever computes
it: every example in a row of its own, every image through the tower, nothing twice, logits at supervised
tokens. Its ratio to a time compares programs. *Executed* is what this program does, with its shortcuts and
with what it computes again to save memory.
"""

from dataclasses import dataclass

from torch import nn
from transformers import PaliGemmaConfig

from finetune.model.table import is_linear_weight
from finetune.model.towers import Tower, tower_of

_RECOMPUTED_ATTENTION = 0.5
"""Share of its forward pass that a fused attention computes again in its backward pass: the scores."""


@dataclass(frozen=True)
class Learning:
    """How much of a tower learns, and so how much of a backward pass it has."""

    flow: float = 0.0
    """Share of its layers through which a gradient flows."""
    share: float = 0.0
    """Share of the weights in its layers that learn themselves."""
    adapters: int = 0
    """Weights of its adapters."""


@dataclass(frozen=True)
class ExampleSize:
    """An example, on average."""

    image_tokens: int
    """Of one image."""
    images: float
    prefix_tokens: float
    """With BOS and newline."""
    suffix_tokens: float
    """Of one suffix, with EOS: the supervised tokens."""
    suffixes: float = 1.0
    """That share one row with image and prefix."""


@dataclass(frozen=True)
class Execution:
    """What a run does otherwise than plainly."""

    last_layer: bool = True
    """The last decoder layer at supervised tokens only."""
    checkpoint_every: int | None = None
    """Every k-th layer is computed again in the backward pass; None: no layer."""
    images: float = 1.0
    """Share of the images that go through the tower: fewer where a batch repeats some, 0 with cached
    features."""
    fused_attention: bool = True
    """Whether attention keeps no scores."""


def describe_learning(model: nn.Module) -> dict[Tower, Learning]:
    """Return how much of each tower of a model learns.

    Args:
        model: frozen and adapted; may be on the meta device.
    """
    learning: dict[Tower, Learning] = {}
    flows = False
    for tower in Tower:
        named = [(n, weight) for n, weight in model.named_parameters() if tower_of(n) == tower]
        adapters = sum(w.numel() for n, w in named if "lora_" in n and w.requires_grad)
        base = [
            (n, w) for n, w in named if is_linear_weight(n, w) and "lora_" not in n and "lm_head" not in n
        ]
        total = sum(w.numel() for _, w in base)
        learned = sum(w.numel() for _, w in base if w.requires_grad)
        layers = sorted({_layer_of(n) for n, _ in base})
        first = min((_layer_of(n) for n, w in named if w.requires_grad), default=None)
        if flows or (first is not None and first < 0):
            flow = 1.0
        elif first is None:
            flow = 0.0
        else:
            flow = sum(layer >= first for layer in layers) / len(layers)
        flows |= first is not None
        learning[tower] = Learning(flow, learned / max(total, 1), adapters)
    return learning


def _layer_of(name: str) -> int:
    """Return the number of a parameter's layer; -1 for what precedes the layers."""
    _, _, rest = name.partition(".layers.")
    return int(rest.split(".")[0]) if rest else -1


def count_useful(config: PaliGemmaConfig, learning: dict[Tower, Learning], example: ExampleSize) -> float:
    """Return the useful operations of an example, all of its suffixes."""
    text = example.prefix_tokens + example.suffix_tokens
    length = example.images * example.image_tokens + text
    decoder, layers = learning[Tower.language_model], config.text_config.num_hidden_layers
    row = layers * (
        length * _decoder_linear(config) * _passes(decoder)
        + length**2 * _scores(config) * (1 + 2 * decoder.flow)
    )
    head = example.suffix_tokens * _head(config) * (2 + decoder.share)
    return example.suffixes * (row + head + example.images * _vision(config, learning, _Plain))


def count_executed(
    config: PaliGemmaConfig, learning: dict[Tower, Learning], example: ExampleSize, run: Execution
) -> float:
    """Return the operations that a run executes for an example, all of its suffixes."""
    decoder, layers = learning[Tower.language_model], config.text_config.num_hidden_layers
    before = example.images * example.image_tokens + example.prefix_tokens
    length = before + example.suffixes * example.suffix_tokens
    rows = example.suffixes * example.suffix_tokens
    linear, scores, keys = _decoder_linear(config), _scores(config), _keys_and_values(config)
    # The layers that learn are the last ones: of the others, fewer than of all have a backward pass.
    last = Learning(min(1.0, decoder.flow * layers), decoder.share / max(decoder.flow, 1 / layers))
    others = Learning(
        (decoder.flow * layers - last.flow) / (layers - 1),
        (decoder.share * layers - last.share) / (layers - 1),
    )
    adapters = 6 * decoder.adapters / max(decoder.flow * layers, 1)
    computed = length * keys + rows * (linear - keys) if run.last_layer else length * linear
    queries = rows if run.last_layer else length
    total = (layers - 1) * (
        length * linear * _passes(others) + length**2 * scores * _attention(others, run)
    ) + (computed * _passes(last) + queries * length * scores * _attention(last, run))
    total += adapters * ((decoder.flow * layers - last.flow) * length + last.flow * queries)
    if run.checkpoint_every is not None:
        recomputed = len(range(0, layers - run.last_layer, run.checkpoint_every)) * decoder.flow
        again = linear
        if not decoder.adapters:
            # What is needed again ends with the input of the last matrix, `down_proj`.
            again -= 2 * config.text_config.hidden_size * config.text_config.intermediate_size
        total += recomputed * (length * (again + adapters / 3) + length**2 * scores)
    head = rows * _head(config) * (1 + 1 + decoder.share)
    return total + head + example.images * run.images * _vision(config, learning, run)


_Plain = Execution(fused_attention=False)


def _attention(learning: Learning, run: Execution) -> float:
    """Return how often the attention is gone through, as `_passes` does for linear layers."""
    return 1 + learning.flow * (2 + _RECOMPUTED_ATTENTION * run.fused_attention)


def _passes(learning: Learning) -> float:
    """Return how often a linear layer is gone through: forward, for the gradients of input and weights."""
    return 1 + learning.flow + learning.share


def _decoder_linear(config: PaliGemmaConfig) -> float:
    """Return the operations of a decoder layer's matrices for a token."""
    text = config.text_config
    queries = text.num_attention_heads * text.head_dim
    return 2.0 * (2 * text.hidden_size * queries + 3 * text.hidden_size * text.intermediate_size) + (
        _keys_and_values(config)
    )


def _keys_and_values(config: PaliGemmaConfig) -> float:
    text = config.text_config
    return 4.0 * text.hidden_size * text.num_key_value_heads * text.head_dim


def _scores(config: PaliGemmaConfig) -> float:
    """Return the operations of a layer's attention for a pair of tokens."""
    return 4.0 * config.text_config.num_attention_heads * config.text_config.head_dim


def _head(config: PaliGemmaConfig) -> float:
    return 2.0 * config.text_config.hidden_size * config.text_config.vocab_size


def _vision(config: PaliGemmaConfig, learning: dict[Tower, Learning], run: Execution) -> float:
    """Return the operations of tower and projector for an image."""
    vision, tower = config.vision_config, learning[Tower.vision_tower]
    width, tokens = vision.hidden_size, (vision.image_size // vision.patch_size) ** 2
    linear = tokens * 2.0 * (4 * width**2 + 2 * width * vision.intermediate_size)
    scores = 4.0 * tokens**2 * width
    patches = tokens * 2.0 * 3 * vision.patch_size**2 * width * (1 + tower.share)
    projector = tokens * 2.0 * width * config.projection_dim
    of_projector = learning[Tower.multi_modal_projector]
    # Its input needs a gradient only where the tower learns.
    passes = 1 + of_projector.share + (tower.flow > 0)
    layers = vision.num_hidden_layers
    total = (
        layers * (linear * _passes(tower) + scores * _attention(tower, run)) + patches + projector * passes
    )
    total += 6 * (tower.adapters + of_projector.adapters) * tokens
    if run.checkpoint_every is not None and tower.flow > 0:
        total += len(range(0, layers, run.checkpoint_every)) * (linear + scores)
    return total
