"""A VQ-VAE of the published file's names and shapes with random weights."""

import numpy as np
import pytest
import torch

from finetune.codecs.mask_vae import MaskVae

CONVOLUTIONS = {
    "encoder.0": (16, 1, 4, 4),
    "encoder.2": (32, 16, 4, 4),
    "encoder.4": (64, 32, 4, 4),
    "encoder.6": (128, 64, 4, 4),
    **{
        f"{block}.net.{place}": (128, 128, width, width)
        for block in ("encoder.8", "encoder.9", "decoder.2", "decoder.3")
        for place, width in ((0, 3), (2, 3), (4, 1))
    },
    "encoder.10": (512, 128, 1, 1),
    "decoder.0": (128, 512, 1, 1),
    "decoder.4": (128, 128, 4, 4),
    "decoder.6": (128, 64, 4, 4),
    "decoder.8": (64, 32, 4, 4),
    "decoder.10": (32, 16, 4, 4),
    "decoder.12": (1, 16, 1, 1),
}
TRANSPOSED = ("decoder.4", "decoder.6", "decoder.8", "decoder.10")


@pytest.fixture(scope="session")
def weights() -> dict[str, np.ndarray]:
    """Arrays that keep the size of a signal from layer to layer, so that no branch is lost."""
    generator = np.random.default_rng(0)
    arrays = {"_vq_vae._embedding": generator.normal(0, 1, (128, 512))}
    for name, shape in CONVOLUTIONS.items():
        transposed = name in TRANSPOSED
        # Of a stride-2 transposed convolution's 4 x 4 kernel, 2 x 2 meet in each pixel.
        inputs = shape[0] * 4 if transposed else np.prod(shape[1:])
        arrays[f"{name}.weight"] = generator.normal(0, (2 / inputs) ** 0.5, shape)
        arrays[f"{name}.bias"] = generator.normal(0, 0.3, shape[1] if transposed else shape[0])
    return {name: array.astype(np.float32) for name, array in arrays.items()}


@pytest.fixture(scope="session")
def vae(weights: dict[str, np.ndarray]) -> MaskVae:
    model = MaskVae()
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    return model
