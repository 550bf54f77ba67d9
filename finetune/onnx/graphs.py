"""The three graphs that Transformers.js runs a PaliGemma with, as modules that torch exports.

Transformers.js embeds the prompt (`embed_tokens`), writes the image's features (`vision_encoder`) over the
embeddings of its image tokens, and calls `decoder_model_merged` once with all of them and an empty cache,
and then with one token at a time. It passes a mask of padding only, so the decoder makes PaliGemma's own:
the first call sees the whole prompt in both directions, every later one what is in the cache and before it.

Source: @huggingface/transformers 4.3.1, src/models/session_config.js (`ImageTextToText`) and
src/models/modeling_utils.js (`generic_text_to_text_forward`, `decoder_forward`).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PaliGemmaForConditionalGeneration

VISION, EMBEDDING, DECODER = "vision_encoder", "embed_tokens", "decoder_model_merged"
"""File names, without suffix, that Transformers.js expects."""

_CACHE = "past_key_values."


@dataclass(frozen=True)
class Graph:
    """A module with what `torch.onnx.export` needs to know of its inputs and outputs."""

    name: str
    """Of its file, without suffix."""
    module: nn.Module
    """In float32 and evaluation mode."""
    inputs: dict[str, Tensor]
    """An example of each input by name; no dynamic axis has length 0 or 1, which torch would keep."""
    dynamic: dict[str, dict[int, str]]
    """Input -> axis -> name of a length that may differ between calls."""
    outputs: tuple[str, ...]
    """Names of the outputs."""

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The inputs as `module` takes them: those of the cache in one list."""
        return _with_cache_as_list(self.inputs)

    @property
    def dynamic_shapes(self) -> tuple[Any, ...]:
        """`dynamic` in the same form."""
        return _with_cache_as_list(self.dynamic)


def _with_cache_as_list(values: dict[str, Any]) -> tuple[Any, ...]:
    cache = [value for name, value in values.items() if name.startswith(_CACHE)]
    rest = tuple(value for name, value in values.items() if not name.startswith(_CACHE))
    return (*rest, cache) if cache else rest


class VisionEncoder(nn.Module):
    """SigLIP and the projector: images to the embeddings of their image tokens."""

    def __init__(self, model: PaliGemmaForConditionalGeneration) -> None:
        super().__init__()
        self.vision_tower = model.model.vision_tower
        self.multi_modal_projector = model.model.multi_modal_projector

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return (B, image tokens, hidden) for (B, 3, side, side)."""
        hidden = self.vision_tower(pixel_values).last_hidden_state
        features: Tensor = self.multi_modal_projector(hidden)
        return features


class TokenEmbedding(nn.Module):
    """The embedding of tokens, scaled as Gemma scales it; image features are not scaled."""

    def __init__(self, model: PaliGemmaForConditionalGeneration) -> None:
        super().__init__()
        self.embed_tokens = model.get_input_embeddings()

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return (B, T, hidden) for (B, T) ids."""
        embedded: Tensor = self.embed_tokens(input_ids)
        return embedded


class Decoder(nn.Module):
    """The language model with its cache as inputs and outputs."""

    def __init__(self, model: PaliGemmaForConditionalGeneration) -> None:
        super().__init__()
        self.language_model = model.model.language_model
        self.lm_head = model.lm_head
        text = model.config.text_config
        self._layers: int = text.num_hidden_layers
        self._soft_cap: float | None = getattr(text, "final_logit_softcapping", None)
        self._kinds: list[str] | None = getattr(text, "layer_types", None) if _has_window(text) else None

    def forward(
        self, inputs_embeds: Tensor, attention_mask: Tensor, position_ids: Tensor, past: list[Tensor]
    ) -> tuple[Tensor, ...]:
        """Read tokens after those in the cache.

        Args:
            inputs_embeds: (B, Q, hidden).
            attention_mask: (B, P + Q) int64; 0 where a prompt is padded, on the left.
            position_ids: (B, Q) int64; PaliGemma's begin at 1.
            past: key and value of each layer in turn: (B, heads, P, head size).

        Returns:
            Logits of the token after the last one, (B, 1, V), and `past` with these tokens.
        """
        mask = _build_mask(inputs_embeds, attention_mask, past[0].shape[2])
        cache = _Cache(past)
        hidden = self.language_model(
            inputs_embeds=inputs_embeds,
            # Already prepared masks are used as they are; Gemma 2 takes one for each kind of layer.
            attention_mask=mask if self._kinds is None else dict.fromkeys(self._kinds, mask),
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        # Only the last position is sampled from: logits of a whole image would need a gigabyte.
        logits = self.lm_head(hidden[:, -1:])
        if self._soft_cap is not None:
            logits = torch.tanh(logits / self._soft_cap) * self._soft_cap
        return (logits, *cache.tensors)


class _Cache:
    """A cache of plain tensors, with the methods of transformers' that Gemma calls."""

    def __init__(self, past: list[Tensor]) -> None:
        self.tensors = list(past)

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        """Add the keys and values of new tokens, and return all of them."""
        self.tensors[2 * layer] = torch.cat([self.tensors[2 * layer], key], dim=2)
        self.tensors[2 * layer + 1] = torch.cat([self.tensors[2 * layer + 1], value], dim=2)
        return self.tensors[2 * layer], self.tensors[2 * layer + 1]

    def get_seq_length(self, layer: int = 0) -> int:
        """Return the number of tokens in a layer."""
        return self.tensors[2 * layer].shape[2]


def _build_mask(inputs_embeds: Tensor, attention_mask: Tensor, past: int) -> Tensor:
    """Return what is added to attention scores: (B, 1, Q, P + Q), 0 where a token is seen.

    Args:
        inputs_embeds: (B, Q, hidden).
        attention_mask: (B, P + Q).
        past: length P of the cache; 0 for the prompt, which sees all of itself.
    """
    queries, keys = inputs_embeds.shape[1], attention_mask.shape[1]
    # As a tensor: the graph has to decide when it runs, not when it is traced.
    length = torch.full((1, 1), past, dtype=torch.int64)
    before = torch.arange(keys)[None, :] <= torch.arange(queries)[:, None] + length
    seen = (before | (length == 0))[None, None] & (attention_mask != 0)[:, None, None, :]
    return torch.where(seen, 0.0, torch.finfo(torch.float32).min)


class _Product(nn.Module):
    """A linear layer with its weights as ONNX multiplies them.

    Otherwise large weights would be transposed each time that the graph runs, and could not be quantized,
    because they would not be an input of the product.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach().t().contiguous(), requires_grad=False)
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        product = x @ self.weight
        return product if self.bias is None else product + self.bias


def _transpose_linear_layers(model: nn.Module) -> None:
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, _Product(module))


def _has_window(text: Any) -> bool:
    return getattr(text, "sliding_window", None) is not None


def build_graphs(model: PaliGemmaForConditionalGeneration) -> list[Graph]:
    """Return the graphs of a model.

    Args:
        model: without an adapter, in float32 and evaluation mode; its linear layers are replaced.
    """
    model.set_attn_implementation("eager")
    _transpose_linear_layers(model)
    vision, text = model.config.vision_config, model.config.text_config
    batch, past, new = 2, 3, 5
    pixels = torch.zeros(batch, vision.num_channels, vision.image_size, vision.image_size)
    ids = torch.zeros((batch, new), dtype=torch.int64)
    names = [f"{layer}.{part}" for layer in range(text.num_hidden_layers) for part in ("key", "value")]
    cache = {
        f"{_CACHE}{name}": torch.zeros(batch, text.num_key_value_heads, past, text.head_dim)
        for name in names
    }
    decoder = {
        "inputs_embeds": torch.zeros(batch, new, text.hidden_size),
        "attention_mask": torch.ones((batch, past + new), dtype=torch.int64),
        "position_ids": torch.arange(past + 1, past + new + 1).repeat(batch, 1),
        **cache,
    }
    # Transformers.js begins a cache with the shape in the graph: `batch_size` rows, other names are 0.
    lengths = {
        "inputs_embeds": {0: "batch_size", 1: "sequence_length"},
        "attention_mask": {0: "batch_size", 1: "total_sequence_length"},
        "position_ids": {0: "batch_size", 1: "sequence_length"},
        **{name: {0: "batch_size", 2: "past_sequence_length"} for name in cache},
    }
    rows = {0: "batch_size"}
    present = tuple(f"present.{name}" for name in names)
    return [
        Graph(
            VISION,
            VisionEncoder(model),
            {"pixel_values": pixels},
            {"pixel_values": rows},
            ("image_features",),
        ),
        Graph(
            EMBEDDING,
            TokenEmbedding(model),
            {"input_ids": ids},
            {"input_ids": {**rows, 1: "sequence_length"}},
            ("inputs_embeds",),
        ),
        Graph(DECODER, Decoder(model), decoder, lengths, ("logits", *present)),
    ]
