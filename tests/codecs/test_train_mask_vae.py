from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.codecs.coco_mask import encode_rle
from finetune.codecs.mask_vae import load_mask_vae
from finetune.codecs.train_mask_vae import crop_objects, save_mask_vae, train_mask_vae
from finetune.example import SceneObject


def draw_crops(count: int, seed: int) -> torch.Tensor:
    """Ellipses that touch the edges of their boxes, at every angle."""
    draw = np.random.default_rng(seed)
    grid = np.linspace(-1, 1, 64)
    x, y = np.meshgrid(grid, grid)
    crops = []
    for _ in range(count):
        angle, ratio = draw.uniform(0, np.pi), draw.uniform(0.3, 1)
        u, v = x * np.cos(angle) + y * np.sin(angle), (y * np.cos(angle) - x * np.sin(angle)) / ratio
        crops.append((u * u + v * v < 1).astype(np.float32))
    return torch.from_numpy(np.stack(crops))


@pytest.mark.slow
def test_a_vae_of_ones_own_learns_masks_and_is_read_like_the_published_one(tmp_path: Path) -> None:
    save_mask_vae(train_mask_vae(draw_crops(300, 0), steps=150, batch=16), tmp_path / "own.npz")
    vae = load_mask_vae(tmp_path / "own.npz")
    held_out = draw_crops(40, 1)
    codes = vae.encode(held_out)
    found, true = vae.decode(codes) > 0, held_out > 0.5
    iou = (found & true).sum((1, 2)) / (found | true).sum((1, 2))
    assert iou.mean() > 0.8
    assert len(set(codes.flatten().tolist())) > 16


def test_the_precision_that_the_model_computes_in_changes_no_code() -> None:
    crops = draw_crops(6, 2)
    vae = train_mask_vae(crops, steps=4, batch=4)
    codes = vae.encode(crops)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(vae.encode(crops), codes)
        assert vae.decode(codes).dtype == torch.float32


def test_training_is_a_function_of_its_seed() -> None:
    crops = draw_crops(8, 0)
    first, second = (train_mask_vae(crops, steps=4, batch=4, seed=3) for _ in range(2))
    for one, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_objects_without_a_mask_give_no_crop() -> None:
    mask = np.zeros((10, 20), bool)
    mask[2:5, 3:9] = True
    objects: list[SceneObject] = [
        {"box_xyxy": [3, 2, 9, 5], "mask_rle": encode_rle(mask)},
        {"box_xyxy": [3, 2, 9, 5], "mask_rle": None},
        {"box_xyxy": [12, 2, 19, 5], "mask_rle": encode_rle(mask)},
    ]
    (crop,) = crop_objects(objects, (10, 20))
    assert crop.shape == (64, 64)
    assert crop.min() == 1
