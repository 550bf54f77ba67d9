"""From the pixels of a batch to the vectors that take the place of its image tokens.

Pixels come as bytes and with each distinct image once. They are scaled here, on the model's device, and
tower and projector run once for each of them; a vector then stands wherever its image does, and gradients
of all these places add up. It all happens inside the forward pass of the inner PaliGemma, so that a wrapper
for distribution sees one call, and autocast is the model's own.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.paligemma.modeling_paligemma import PaliGemmaModel

from finetune.example import Pixels

INSTALLED = "_shares_images"
"""Attribute of a changed model: whether equal images of a batch share a pass through the tower."""

_KEEP = "_keep_features"

Keep = Callable[[list[str], Tensor], None]
"""Is given the `image_keys` of a batch, and what the tower made of each: (images, tokens, width)."""


def take_images(model: nn.Module, *, distinct: bool | None = None) -> PaliGemmaModel:
    """Let a model take the pixels of a batch as they are; once for each model.

    Given `pixel_values` alone it works as before, and so do parameters and their names.

    Args:
        model: a PaliGemma, with an adapter or without, wrapped for distribution or not; changed in place.
        distinct: whether equal images share a pass through the tower; None leaves it as it is.

    Returns:
        The PaliGemma without its output layer.
    """
    inner = next(module for module in model.modules() if isinstance(module, PaliGemmaModel))
    if not hasattr(inner, INSTALLED):
        inner.forward = partial(_run, inner, inner.forward)
        setattr(inner, INSTALLED, True)
    if distinct is not None:
        setattr(inner, INSTALLED, distinct)
    return inner


def keep_features(model: nn.Module, keep: Keep) -> None:
    """Hand what the tower makes of images with keys to `keep`; the tower must not learn."""
    setattr(take_images(model), _KEEP, keep)


def describe_features(model: nn.Module, side: int) -> tuple[tuple[int, int], torch.dtype]:
    """Return tokens and width of what the tower makes of an image, and the format, from one that is gray.

    Args:
        model: a PaliGemma, with an adapter or without.
        side: of an image, pixels.
    """
    tower = take_images(model).vision_tower
    device = next(tower.parameters()).device
    with torch.no_grad():
        features = tower(torch.zeros(1, 3, side, side, device=device)).last_hidden_state[0]
    return (features.shape[0], features.shape[1]), features.dtype


def drops_activations(part: nn.Module) -> bool:
    """Return whether a part of a model drops activations; SigLIP's attention has the share as a number."""
    shares = (
        module.p if isinstance(module, nn.Dropout) else getattr(module, "dropout", 0)
        for module in part.modules()
    )
    return any(isinstance(share, float) and share > 0 for share in shares)


def image_inputs(batch: Pixels) -> dict[str, Any]:
    """Return the keyword arguments of a model that `take_images` has changed."""
    names = ("pixel_values", "pixel_table", "image_rows", "image_keys", "features")
    return {name: batch[name] for name in names if name in batch}  # type: ignore[literal-required]


def encode_images(model: nn.Module, batch: Pixels) -> Tensor:
    """Return what takes the place of the image tokens: (images of all examples in order, tokens, width).

    For generation, where several passes may share it: a wrapper for distribution does not see this call.

    Args:
        model: a PaliGemma, with an adapter or without.
        batch: on the model's device.
    """
    return _encode(take_images(model), **image_inputs(batch))


def spread_pixels(batch: Pixels) -> Tensor:
    """Return the pixels as transformers' PaliGemma takes them.

    Returns:
        (images of all examples in order, 3, side, side) float32.
    """
    pixels = scale_pixels(batch["pixel_values"], batch.get("pixel_table"))
    return pixels.index_select(0, batch["image_rows"]) if "image_rows" in batch else pixels


def scale_pixels(pixels: Tensor, table: Tensor | None) -> Tensor:
    """Look bytes up in the table of their channel: (images, 3, side, side) float32."""
    if table is None:
        return pixels
    planes = zip(table, pixels.unbind(1), strict=True)
    return torch.stack(
        [row.index_select(0, plane.flatten().int()).view_as(plane) for row, plane in planes], 1
    )


def _run(
    inner: PaliGemmaModel,
    plain: Callable[..., Any],
    *args: Any,
    pixel_values: Tensor | None = None,
    pixel_table: Tensor | None = None,
    image_rows: Tensor | None = None,
    image_keys: list[str] | None = None,
    features: Tensor | None = None,
    **kwargs: Any,
) -> Any:
    """Encode the images, and go on with `plain`, the model's own method."""
    if pixel_values is not None:
        encoded = _encode(inner, pixel_values, pixel_table, image_rows, image_keys, features)
        kwargs["mm_encoder_outputs"] = as_encoder_output(encoded)
    return plain(*args, **kwargs)


def as_encoder_output(encoded: Tensor) -> dict[str, BaseModelOutputWithPooling]:
    """Return what `encode_images` returns as a PaliGemma's `mm_encoder_outputs`."""
    return {"image": BaseModelOutputWithPooling(pooler_output=encoded)}


def _encode(
    inner: PaliGemmaModel,
    pixel_values: Tensor,
    pixel_table: Tensor | None = None,
    image_rows: Tensor | None = None,
    image_keys: list[str] | None = None,
    features: Tensor | None = None,
) -> Tensor:
    if image_rows is not None and features is None and not getattr(inner, INSTALLED):
        pixel_values, image_rows, image_keys = pixel_values.index_select(0, image_rows), None, None
    parts = [] if features is None else [features]
    if len(pixel_values):
        hidden = inner.vision_tower(scale_pixels(pixel_values, pixel_table)).last_hidden_state
        keep: Keep | None = getattr(inner, _KEEP, None)
        if keep is not None and image_keys is not None:
            keep(image_keys, hidden)
        parts.insert(0, hidden)
    projected: Tensor = inner.multi_modal_projector(parts[0] if len(parts) == 1 else torch.cat(parts))
    return projected if image_rows is None else projected.index_select(0, image_rows)
