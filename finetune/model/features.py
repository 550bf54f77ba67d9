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


def image_inputs(batch: Pixels) -> dict[str, Tensor]:
    """Return the keyword arguments of a model that `take_images` has changed."""
    names = ("pixel_values", "pixel_table", "image_rows")
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
    **kwargs: Any,
) -> Any:
    """Encode the images, and go on with `plain`, the model's own method."""
    if pixel_values is not None:
        encoded = _encode(inner, pixel_values, pixel_table, image_rows)
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
) -> Tensor:
    if image_rows is not None and not getattr(inner, INSTALLED):
        pixel_values, image_rows = pixel_values.index_select(0, image_rows), None
    hidden = inner.vision_tower(scale_pixels(pixel_values, pixel_table)).last_hidden_state
    projected: Tensor = inner.multi_modal_projector(hidden)
    return projected if image_rows is None else projected.index_select(0, image_rows)
