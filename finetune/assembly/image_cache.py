"""What a job keeps of its images on disk: what the vision tower makes of them, or their resized pixels."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn
from transformers import PaliGemmaProcessor

from finetune.assembly.data import Data
from finetune.assembly.features import build_feature_cache
from finetune.assembly.room import ImageCache, describe_resizing, find_changes, open_room, open_store
from finetune.config.schema import RunConfig
from finetune.data.batches.pixels import PixelBuilder
from finetune.errors import UserError
from finetune.speed import Technique, switched_off

_OPTION = "pixel_cache"


def build_image_cache(
    config: RunConfig, model: nn.Module, processor: PaliGemmaProcessor, data: Data
) -> ImageCache:
    """Decide what is kept of images, and let model or collators hand it over.

    Args:
        config: `trainer`, `augmentation` and `image` are read.
        model: changed in place.
        processor: of the checkpoint.
        data: its images are counted, and its collators changed in place; without a training split the job
            only evaluates.

    Raises:
        UserError: what was asked for cannot apply.
    """
    features = build_feature_cache(config, model, processor, data)
    pixels = _build_pixel_cache(config, processor, data, has_features=features.store is not None)
    chosen = pixels if features.store is None else features
    return replace(chosen, techniques=features.techniques + pixels.techniques)


def _build_pixel_cache(
    config: RunConfig, processor: PaliGemmaProcessor, data: Data, *, has_features: bool
) -> ImageCache:
    if not config.trainer.speed.pixel_cache:
        return ImageCache([switched_off(_OPTION)])
    if has_features:
        return ImageCache([Technique(_OPTION, False, "features are kept, so that no image is resized")])
    builder = data.evaluation_collator.pixels
    if why := _find_obstacle(data, builder):
        raise UserError(f"trainer.speed.{_OPTION}=true cannot apply: {why}. Leave it out.")
    shape = (3, *builder.size)
    about = {
        **describe_resizing(config, processor),
        "pixels": str(shape),
        "numpy": np.__version__,
    }
    store = open_store("pixels", about, shape, torch.uint8)
    what = f"3 x {shape[1]:,} x {shape[2]:,} bytes"
    cache = open_room(_OPTION, store, data.splits, what, 0.5)
    for collator in (data.collator, data.evaluation_collator):
        collator.pixels.store = cache.store
    return cache


def _find_obstacle(data: Data, builder: PixelBuilder) -> str | None:
    """Return why there are no pixels of an image that are always the same."""
    if not builder.technique.is_on:
        return "it keeps bytes, and pixels are floats here (trainer.speed.uint8_pixels)"
    return find_changes(data.train)
