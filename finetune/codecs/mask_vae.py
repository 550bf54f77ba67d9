"""The VQ-VAE of the `<seg>` tokens: a mask of 64 x 64 to sixteen of 128 codes and back.

The weights are Google's `vae-oid.npz`, trained on OpenImages; they are not part of this package.

Source: big_vision `pp/proj/paligemma/segmentation.py` (encoder) and
`evaluators/proj/paligemma/transfers/segmentation.py` (decoder), after AiT (arXiv:2301.02229). Its widths
are AiT's configuration `ait_insseg_vqvae`; `load_mask_vae` holds every array against them.
"""

import os
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
from torch import nn

from finetune.errors import UserError

MASK_VAE_URL = "https://storage.googleapis.com/big_vision/paligemma/vae-oid.npz"
"""The published weights, `gs://big_vision/paligemma/vae-oid.npz`."""

SIDE = 64
"""Height and width of the masks that the VAE reads and writes, pixels."""

_CODES = 128
_CODES_PER_MASK = 16
_CODE_WIDTH = 512
_WIDTH = 128
_TIMEOUT_SECONDS = 60


class ResBlock(nn.Module):
    """Two 3 x 3 convolutions and one of 1 x 1 next to a skip; no ReLU after the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(_WIDTH, _WIDTH, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, 128, 4, 4) to the same shape."""
        residual: torch.Tensor = self.net(x)
        return x + residual


class _Codebook(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self._embedding = nn.Parameter(torch.zeros(_CODES, _CODE_WIDTH))


class MaskVae(nn.Module):
    """Encoder, codebook and decoder; the parameters have the published file's names.

    A stride-2 convolution of width 4 with TensorFlow's SAME pads one pixel on every side here.
    """

    def __init__(self) -> None:
        super().__init__()
        down = [
            layer
            for before, after in ((1, 16), (16, 32), (32, 64), (64, 128))
            for layer in (nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU())
        ]
        up = [
            layer
            for before, after in ((128, 128), (128, 64), (64, 32), (32, 16))
            for layer in (nn.ConvTranspose2d(before, after, 4, stride=2, padding=1), nn.ReLU())
        ]
        self.encoder = nn.Sequential(*down, ResBlock(), ResBlock(), nn.Conv2d(_WIDTH, _CODE_WIDTH, 1))
        self._vq_vae = _Codebook()
        self.decoder = nn.Sequential(
            nn.Conv2d(_CODE_WIDTH, _WIDTH, 1), nn.ReLU(), ResBlock(), ResBlock(), *up, nn.Conv2d(16, 1, 1)
        )
        self.requires_grad_(False)

    @property
    def codebook(self) -> torch.Tensor:
        """The 128 codes' vectors, (128, 512)."""
        return self._vq_vae._embedding

    @torch.no_grad()
    def encode(self, masks: torch.Tensor) -> torch.Tensor:
        """Return the codes of masks.

        Args:
            masks: (N, 64, 64) floats, 0 to 1.

        Returns:
            (N, 16) int64, 0 to 127, row by row of a 4 x 4 grid.

        Raises:
            ValueError: the masks are of another shape.
        """
        if masks.ndim != 3 or masks.shape[1:] != (SIDE, SIDE):
            raise ValueError(f"Expected `masks` to be (N, {SIDE}, {SIDE}), but got {tuple(masks.shape)}.")
        x = 2.0 * (masks.to(self.codebook)[:, None] - 0.5)
        with self._in_full_precision():
            vectors = self.encoder(x).permute(0, 2, 3, 1).reshape(-1, _CODE_WIDTH)
            distances = (
                vectors.square().sum(1, keepdim=True)
                + self.codebook.square().sum(1)
                - 2 * vectors @ self.codebook.T
            )
        return distances.argmin(1).reshape(-1, _CODES_PER_MASK)

    @torch.no_grad()
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the maps of codes.

        Args:
            codes: (N, 16) integers, 0 to 127.

        Returns:
            (N, 64, 64) floats, about -1 outside the object and 1 inside.

        Raises:
            ValueError: the codes are of another shape, or not from 0 to 127.
        """
        if codes.ndim != 2 or codes.shape[1] != _CODES_PER_MASK:
            expected = f"(N, {_CODES_PER_MASK})"
            raise ValueError(f"Expected `codes` to be {expected}, but got {tuple(codes.shape)}.")
        wrong = codes[(codes < 0) | (codes >= _CODES)]
        if len(wrong):
            raise ValueError(f"Expected `codes` to be from 0 to {_CODES - 1}, but got {int(wrong[0])}.")
        grid = self.codebook[codes.to(self.codebook.device)].reshape(-1, 4, 4, _CODE_WIDTH)
        with self._in_full_precision():
            maps: torch.Tensor = self.decoder(grid.permute(0, 3, 1, 2))
        return maps[:, 0]

    def _in_full_precision(self) -> torch.autocast:
        """Keep the context that PaliGemma computes in from changing codes and edges."""
        return torch.autocast(self.codebook.device.type, enabled=False)


def cache_folder() -> Path:
    """Return where what was downloaded or trained once is kept: `FINETUNE_CACHE`, or under `~/.cache`."""
    return Path(os.environ.get("FINETUNE_CACHE") or Path.home() / ".cache" / "finetune_paligemma")


def find_weights(setting: str) -> Path:
    """Return the file of weights that a setting names.

    Args:
        setting: `published`, downloaded at first use, or a file.

    Raises:
        UserError: the published ones cannot be downloaded.
    """
    if setting != "published":
        return Path(setting)
    path = cache_folder() / "vae-oid.npz"
    fetch_mask_vae(path)
    return path


def load_mask_vae(path: Path) -> MaskVae:
    """Read the published weights.

    Args:
        path: an `.npz` file with one array for each parameter; further arrays are ignored.

    Returns:
        The VAE in float32 on the CPU, not trainable.

    Raises:
        UserError: there is no such file, it cannot be read, or an array is missing or of another shape.
    """
    if not path.is_file():
        raise UserError(
            f"Expected the mask VAE's weights at {path}, but there is no such file. "
            f"They are published: download {MASK_VAE_URL} to that place."
        )
    return _read_weights(path, str(path))


def fetch_mask_vae(path: Path, url: str = MASK_VAE_URL) -> MaskVae:
    """Read the weights from `path`, and download them to it where they are not there yet.

    A download counts only once it has been read as a whole; then it takes its name in one step. No
    checksum is published, so none is compared.

    Args:
        path: where the file is kept.
        url: where it comes from.

    Raises:
        UserError: it could not be downloaded or written, or is not what `load_mask_vae` reads.
    """
    if path.is_file():
        return load_mask_vae(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A folder next to the file: on its disk, so that the rename is one step, and gone after a failure.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
            part = Path(folder) / path.name
            with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as source, part.open("wb") as target:
                shutil.copyfileobj(source, target)
            vae = _read_weights(part, url)
            part.replace(path)
    except (OSError, ValueError, HTTPException) as error:  # URLError and time-outs are OSErrors
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise UserError(
            f"Could not download the mask VAE's weights from {url} to {path}: {reason}. "
            "Without a connection, download the file elsewhere and put it there."
        ) from error
    return vae


def _read_weights(path: Path, origin: str) -> MaskVae:
    """Read the weights; origin is what a message calls the file."""
    vae = MaskVae()
    state = vae.state_dict()
    try:
        with path.open("rb") as stream, np.load(stream) as file:
            names = [name for name in state if name in file.files]
            arrays = {name: np.asarray(file[name], dtype=np.float32) for name in names}
    except (AttributeError, EOFError, OSError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            f"Expected {origin} to be an .npz file of float arrays, but got: {error}. "
            f"The published file is {MASK_VAE_URL}."
        ) from error
    for name, parameter in state.items():
        if name not in arrays:
            raise UserError(f"Expected {origin} to hold the array `{name}`, but it does not.")
        expected, got = tuple(parameter.shape), arrays[name].shape
        if got != expected:
            raise UserError(f"Expected array `{name}` of {origin} to be {expected}, but got {got}.")
    vae.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    return vae.eval()
