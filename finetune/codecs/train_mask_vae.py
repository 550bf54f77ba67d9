"""A custom mask VAE: the published architecture, trained on your masks.

First encoder and decoder alone, with nothing between them; then the codes are chosen among the encoder's
vectors; then all three together, the codes as running means of the vectors that chose them (van den
Oord et al., arXiv:1711.00937, appendix A.1) and a code that nothing chooses moved onto a vector.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from finetune.codecs.mask_vae import MaskVae
from finetune.codecs.masks import crop_mask, resize_crop
from finetune.codecs.rle import decode_rle
from finetune.example import SceneObject
from finetune.progress import track

_COMMITMENT = 0.25
_DECAY = 0.95


def train_mask_vae(crops: Tensor, steps: int = 400, batch: int = 32, seed: int = 0) -> MaskVae:
    """Train on crops; half the steps go before the codes are chosen.

    Args:
        crops: (N, 64, 64) floats, 0 to 1: masks in their boxes, scaled.
        steps: optimizer steps.
        batch: crops of one step.
        seed: of weights and order.

    Returns:
        The VAE in float32 on the CPU, not trainable.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = MaskVae()
        coders = [*vae.encoder.parameters(), *vae.decoder.parameters()]
        for parameter in coders:
            parameter.requires_grad_(True)
        optimizer = torch.optim.Adam(coders, lr=1e-3)
        codebook = _Codebook(vae)
        for step in track(range(steps), "mask VAE", "step"):
            if step == steps // 2:
                codebook.start_from(_encode(vae, crops[torch.randperm(len(crops))[: 16 * batch]]))
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * (1 - step / steps)
            chosen = crops[torch.randint(len(crops), (batch,))]
            vectors = _encode(vae, chosen)
            commitment = torch.zeros(())
            passed = vectors
            if step >= steps // 2:
                nearest = codebook.update(vectors)
                commitment = (vectors - nearest).square().mean()
                passed = vectors + (nearest - vectors).detach()  # the gradient goes straight through
            maps = vae.decoder(passed.reshape(-1, 4, 4, vectors.shape[1]).permute(0, 3, 1, 2))[:, 0]
            loss = (maps - (2 * chosen - 1)).square().mean() + _COMMITMENT * commitment
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return vae.requires_grad_(False).eval()


def crop_objects(objects: Sequence[SceneObject], size: tuple[int, int]) -> list[Tensor]:
    """Return the masks of a row's objects in their boxes, (64, 64) floats each, but for empty ones.

    Args:
        objects: as prediction rows have them, with `box_xyxy` and `mask_rle`.
        size: image height and width, pixels.
    """
    return [
        resize_crop(crop)
        for obj in objects
        if obj.get("mask_rle") is not None
        and (crop := crop_mask(decode_rle(obj["mask_rle"], size), np.array(obj["box_xyxy"]))).any()
    ]


def save_mask_vae(vae: MaskVae, path: Path) -> None:
    """Write the weights in the published layout, for `load_mask_vae`."""
    arrays = {name: value.numpy() for name, value in vae.state_dict().items()}
    with path.open("wb") as file:
        np.savez(file, **arrays)


def _encode(vae: MaskVae, crops: Tensor) -> Tensor:
    """Return the vectors before they are replaced by codes: (N * 16, 512)."""
    vectors: Tensor = vae.encoder(2.0 * (crops[:, None] - 0.5))
    return vectors.permute(0, 2, 3, 1).reshape(-1, vectors.shape[1])


class _Codebook:
    """Running means of the vectors that chose each code."""

    def __init__(self, vae: MaskVae) -> None:
        self.codes = vae.codebook.data
        self.counts = torch.ones(len(self.codes))
        self.sums = self.codes.clone()

    @torch.no_grad()
    def start_from(self, vectors: Tensor) -> None:
        """Choose codes among vectors that are far apart; move each to the mean of those nearest to it."""
        chosen = [0]
        distance = (vectors - vectors[0]).square().sum(1)
        for _ in range(len(self.codes) - 1):
            chosen.append(int(torch.multinomial(distance.clamp_min(1e-12), 1)))
            distance = torch.minimum(distance, (vectors - vectors[chosen[-1]]).square().sum(1))
        self.codes.copy_(vectors[chosen])
        for _ in range(10):
            _, counts, sums = self._assign(vectors)
            used = counts > 0
            self.codes[used] = sums[used] / counts[used, None]
        self.counts.fill_(1.0)
        self.sums.copy_(self.codes)

    @torch.no_grad()
    def update(self, vectors: Tensor) -> Tensor:
        """Move the codes towards the vectors that choose them; return each vector's code, (N, 512)."""
        vectors = vectors.detach()
        index, counts, sums = self._assign(vectors)
        self.counts.mul_(_DECAY).add_(counts, alpha=1 - _DECAY)
        self.sums.mul_(_DECAY).add_(sums, alpha=1 - _DECAY)
        dead = self.counts < 1e-3
        if dead.any():
            moved = vectors[torch.randint(len(vectors), (int(dead.sum()),))]
            self.sums[dead], self.counts[dead] = moved, 1.0
        self.codes.copy_(self.sums / self.counts[:, None])
        return self.codes[index]

    def _assign(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return each vector's nearest code, and how many chose each code and their sum."""
        index = torch.cdist(vectors, self.codes).argmin(1)
        counts = torch.bincount(index, minlength=len(self.codes)).float()
        return index, counts, torch.zeros_like(self.codes).index_add_(0, index, vectors)
