"""Pixels that are scaled on the device are those of the checkpoint's image processor, bit for bit."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.Image import Resampling
from transformers import PaliGemmaProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from finetune.data.batches.collator import Collator
from finetune.data.batches.pixels import PixelBuilder
from finetune.data.batches.resize import resize_as_paper
from finetune.example import Example
from finetune.model.features import spread_pixels
from tests.conftest import noise_image

SIZE = {"height": 56, "width": 56}


def build_example(*images: Image.Image, antialias: bool = True) -> Example:
    return Example("one", images, "", ("x",), antialias=antialias)


@pytest.mark.parametrize("resize", ["bicubic", "bilinear", "paper"])
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="siglip"),
        pytest.param({"image_mean": [0.48, 0.45, 0.4], "image_std": [0.27, 0.26, 0.3]}, id="other-mean"),
        pytest.param({"rescale_factor": 1 / 256}, id="other-scale"),
        pytest.param({"do_normalize": False}, id="without-mean"),
        pytest.param({"size": {"height": 8, "width": 14}}, id="fewer-pixels-than-values"),
    ],
)
def test_bytes_and_table_are_the_values_of_the_processor(resize: str, settings: dict[str, Any]) -> None:
    processor = SiglipImageProcessorPil(**{"size": SIZE, **settings})
    images = [noise_image(seed, 37 + seed, 81) for seed in range(3)]
    examples = [build_example(*images[:2]), build_example(images[2], antialias=False)]
    builder = PixelBuilder(processor, resize)
    built = builder.build(examples)
    assert builder.technique.is_on
    assert built["pixel_values"].dtype == torch.uint8
    kernel = Resampling.BICUBIC if resize == "bicubic" else Resampling.BILINEAR
    size = (processor.size["height"], processor.size["width"])
    resized = [
        resize_as_paper(image, size, example.antialias) if resize == "paper" else image
        for example in examples
        for image in example.images
    ]
    expected = processor(images=resized, resample=kernel, return_tensors="pt")["pixel_values"]
    assert expected.dtype == torch.float32
    assert torch.equal(spread_pixels(built), expected)
    floats = PixelBuilder(processor, resize, as_bytes=False)
    assert torch.equal(floats.build(examples)["pixel_values"], expected)
    assert not floats.technique.is_on


class Blurring(SiglipImageProcessorPil):
    """Mixes neighbors: what becomes of a value does not depend on it alone."""

    def normalize(self, image: np.ndarray, *given: Any, **more: Any) -> np.ndarray:
        image = super().normalize(image, *given, **more)
        return (image + np.roll(image, 1, axis=-1)) / np.float32(2)


def test_a_processor_that_does_more_than_scale_keeps_its_floats() -> None:
    processor = Blurring(size=SIZE)
    builder, image = PixelBuilder(processor, "bicubic"), noise_image(1)
    built = builder.build([build_example(image)])
    expected = processor(images=[image], resample=Resampling.BICUBIC, return_tensors="pt")["pixel_values"]
    assert torch.equal(built["pixel_values"], expected)
    assert "pixel_table" not in built
    assert builder.technique[1:] == (False, "the image processor does more than scale each value")


@pytest.mark.parametrize("as_bytes", [True, False])
def test_equal_images_have_one_row(processor: PaliGemmaProcessor, as_bytes: bool) -> None:
    first, second = noise_image(1), noise_image(2)
    examples = [build_example(first, second), build_example(first.copy()), build_example(second)]
    collator = Collator(processor, uint8_pixels=as_bytes)
    built = pickle.loads(pickle.dumps(collator)).build_pixels(examples)
    assert len(built["pixel_values"]) == 2
    assert built["image_rows"].tolist() == [0, 1, 0, 1]
    apart = torch.cat(
        [spread_pixels(collator.build_pixels([build_example(one)])) for one in (first, second)]
    )
    assert torch.equal(spread_pixels(built), apart[[0, 1, 0, 1]])


def test_an_image_that_the_paper_resizes_in_two_ways_has_two_rows(processor: PaliGemmaProcessor) -> None:
    image = noise_image(1, 90, 120)
    smooth = build_example(image)
    built = Collator(processor, resize="paper").build_pixels([smooth, replace(smooth, antialias=False)])
    assert len(built["pixel_values"]) == 2
    assert "image_rows" not in built


def test_the_collators_batches_have_the_pixels_once(
    processor: PaliGemmaProcessor, make_example: Callable[..., Example]
) -> None:
    examples = [make_example(id=str(number)) for number in range(3)]
    collator = Collator(processor)
    for batch in (collator(examples), collator.build_prompts(examples)):
        assert len(batch["pixel_values"]) == 1
        assert batch["image_rows"].tolist() == [0, 0, 0]
