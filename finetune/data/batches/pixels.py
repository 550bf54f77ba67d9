"""From images to pixels: resized in a worker, each distinct image once, scaled on the model's device.

What an image processor does after resizing depends on the value and its channel alone. It is therefore
asked once what it makes of each value, and pixels stay bytes until `model/features.py` looks them up in
that table: the same floats, bit for bit, in a quarter of the bytes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.Image import Resampling
from torch import Tensor

from finetune.data.batches.resize import resize_as_paper
from finetune.data.stored.store import ImageStore, keep_images
from finetune.example import Example, Pixels
from finetune.speed import Technique, switched_off

_VALUES = 256


class PixelBuilder:
    """Resizes and scales images as a checkpoint's image processor does; picklable.

    Resized images that have keys are appended to `store`, if there is one.

    Args:
        processor: the image processor of the checkpoint.
        resize: `bicubic` or `bilinear`, both Pillow's, or `paper`: big_vision's.
        as_bytes: leave the scaling to the model's device, if the processor's can be looked up.
    """

    def __init__(self, processor: Any, resize: str, *, as_bytes: bool = True) -> None:
        self._processor = processor
        self._size = (processor.size["height"], processor.size["width"])
        self._as_paper = resize == "paper"
        self._kernel = Resampling.BICUBIC if resize == "bicubic" else Resampling.BILINEAR
        self._table = self._read_table() if as_bytes else None
        self.store: ImageStore | None = None
        self.technique = (
            switched_off("uint8_pixels")
            if not as_bytes
            else Technique("uint8_pixels", True, "pixels stay bytes until they are on the model's device")
            if self._table is not None
            else Technique("uint8_pixels", False, "the image processor does more than scale each value")
        )

    def build(self, examples: Sequence[Example]) -> Pixels:
        """Resize the images of the examples; equal ones have one row, stored ones come as features."""
        images = [(image, example.antialias) for example in examples for image in example.images]
        # The same object, as in `predict`, is resized once.
        objects = {(id(image), antialias): image for image, antialias in images}
        resized = [self._resize(image, antialias) for (_, antialias), image in objects.items()]
        found = dict(zip(objects, self._process(resized, scale=self._table is None), strict=True))
        # Compared by content: other rows of the data may have the same image.
        contents = {key: pixels.tobytes() for key, pixels in found.items()}
        distinct = {contents[key]: pixels for key, pixels in found.items()}
        read = [pixels.numpy() for example in examples for pixels in example.stored if _is_image(pixels)]
        distinct |= {pixels.tobytes(): pixels for pixels in read}
        features: dict[str, Tensor] = {}
        keys: dict[bytes, str] = {}
        slots: list[bytes | str] = []
        for example in examples:
            own = [contents[id(image), example.antialias] for image in example.images]
            keys |= zip(own, example.keys, strict=False)
            slots += own
            for key, values in zip(example.keys, example.stored, strict=False):
                if _is_image(values):
                    slots.append(values.numpy().tobytes())
                else:
                    features[key] = values
                    slots.append(key)
        built: Pixels = {"pixel_values": self._stack(list(distinct.values()))}
        if self._table is not None:
            built["pixel_table"] = self._table
        if self.store is not None:
            keep_images(self.store, {key: torch.from_numpy(distinct[place]) for place, key in keys.items()})
        elif keys:
            built["image_keys"] = [keys.get(content, "") for content in distinct]
        if features:
            built["features"] = torch.stack(list(features.values()))
        places = {slot: place for place, slot in enumerate([*distinct, *features])}
        rows = [places[slot] for slot in slots]
        if rows != list(range(len(places))):
            built["image_rows"] = torch.tensor(rows)
        return built

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of resized images, pixels."""
        return self._size

    def _stack(self, pixels: Sequence[np.ndarray]) -> Tensor:
        empty = np.empty((0, 3, *self._size), np.float32 if self._table is None else np.uint8)
        return torch.from_numpy(np.stack(pixels) if pixels else empty)

    def _resize(self, image: Image.Image, antialias: bool) -> Image.Image:
        return resize_as_paper(image, self._size, antialias) if self._as_paper else image

    def _process(self, images: Sequence[Image.Image], *, scale: bool) -> list[np.ndarray]:
        """Return what the processor makes of images, (3, side, side) each; bytes unless they are scaled."""
        if not images:
            return []
        options = {} if scale else {"do_rescale": False, "do_normalize": False}
        # An image of the right size is not resampled.
        found: list[np.ndarray] = self._processor(
            images=list(images), resample=self._kernel, return_tensors="np", **options
        )["pixel_values"]
        return list(found)

    def _read_table(self) -> Tensor | None:
        """Return what the processor makes of each value, (3, 256); None if it cannot be looked up."""
        height, width = self._size
        count = -(-_VALUES // (height * width)) + 1
        values = np.arange(count * height * width).reshape(count, height, width) % _VALUES
        # Channels are read from the same values; that they do not mix is seen with noise.
        every = [Image.fromarray(np.repeat(plane[..., None], 3, 2).astype(np.uint8)) for plane in values]
        noise = np.random.default_rng(0).integers(0, _VALUES, (height, width, 3), dtype=np.uint8)
        images = [*every, Image.fromarray(noise)]
        stored, scaled = (np.stack(self._process(images, scale=scale)) for scale in (False, True))
        if stored.dtype != np.uint8 or scaled.dtype != np.float32 or stored.shape != scaled.shape:
            return None
        table = np.zeros((3, _VALUES), np.float32)
        for channel in range(3):
            table[channel, stored[:-1, channel]] = scaled[:-1, channel]
        looked_up = table[np.arange(3)[:, None, None], stored]
        return torch.from_numpy(table) if np.array_equal(looked_up, scaled) else None


def _is_image(values: Tensor) -> bool:
    """Return whether what is stored of an image is its pixels; else its features."""
    return values.dtype == torch.uint8
