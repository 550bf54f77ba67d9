import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.codecs.mask_vae import MASK_VAE_URL, MaskVae, fetch_mask_vae, load_mask_vae
from finetune.errors import UserError

Weights = dict[str, np.ndarray]


def convolve(weights: Weights, name: str, x: np.ndarray, stride: int = 1) -> np.ndarray:
    """TensorFlow's SAME convolution of (height, width, channels), by its definition."""
    kernel, bias = weights[f"{name}.weight"].astype(np.float64), weights[f"{name}.bias"]
    width = kernel.shape[2]
    side = -(-x.shape[0] // stride)
    padding = max((side - 1) * stride + width - x.shape[0], 0)
    x = np.pad(x, ((padding // 2, padding - padding // 2),) * 2 + ((0, 0),))
    out = np.zeros((side, side, kernel.shape[0]))
    for row in range(side):
        for column in range(side):
            top, left = row * stride, column * stride
            patch = x[top : top + width, left : left + width]
            out[row, column] = np.einsum("ijc,ocij->o", patch, kernel) + bias
    return out


def transpose_convolve(weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    """Stride 2, each input pixel stamps a 4 x 4 kernel; one pixel is cut off every side."""
    kernel, bias = weights[f"{name}.weight"].astype(np.float64), weights[f"{name}.bias"]
    side = x.shape[0]
    out = np.zeros((2 * side + 2, 2 * side + 2, kernel.shape[1]))
    for row in range(side):
        for column in range(side):
            stamp = np.einsum("c,coij->ijo", x[row, column], kernel)
            out[2 * row : 2 * row + 4, 2 * column : 2 * column + 4] += stamp
    return out[1:-1, 1:-1] + bias


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def add_residual(weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    y = relu(convolve(weights, f"{name}.net.0", x))
    y = relu(convolve(weights, f"{name}.net.2", y))
    return x + convolve(weights, f"{name}.net.4", y)


def encode_by_definition(weights: Weights, mask: np.ndarray) -> np.ndarray:
    """Return the (4, 4, 512) vectors of a (64, 64) mask."""
    x = 2.0 * (mask[:, :, None].astype(np.float64) - 0.5)
    for layer in (0, 2, 4, 6):
        x = relu(convolve(weights, f"encoder.{layer}", x, stride=2))
    x = add_residual(weights, "encoder.8", x)
    x = add_residual(weights, "encoder.9", x)
    return convolve(weights, "encoder.10", x)


def decode_by_definition(weights: Weights, codes: np.ndarray) -> np.ndarray:
    """Return the (64, 64) map of 16 codes."""
    x = np.stack([weights["_vq_vae._embedding"][code] for code in codes]).reshape(4, 4, 512)
    x = relu(convolve(weights, "decoder.0", x))
    x = add_residual(weights, "decoder.2", x)
    x = add_residual(weights, "decoder.3", x)
    for layer in (4, 6, 8, 10):
        x = relu(transpose_convolve(weights, f"decoder.{layer}", x))
    return convolve(weights, "decoder.12", x)[:, :, 0]


def draw_masks(count: int) -> np.ndarray:
    return np.random.default_rng(1).random((count, 64, 64)).astype(np.float32)


def test_parameters_have_the_published_names_and_shapes(weights: Weights) -> None:
    state = MaskVae().state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        name: array.shape for name, array in weights.items()
    }


def test_encoder_equals_its_definition(vae: MaskVae, weights: Weights) -> None:
    mask = draw_masks(1)[0]
    expected = encode_by_definition(weights, mask)
    got = vae.encoder(2 * torch.from_numpy(mask)[None, None] - 1)[0].permute(1, 2, 0).numpy()
    assert np.abs(expected).mean() > 0.1
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_codes_are_the_nearest_vectors_row_by_row(weights: Weights) -> None:
    mask = draw_masks(1)[0]
    vectors = encode_by_definition(weights, mask).reshape(16, 512)
    # Every grid cell gets a code of its own, at a place where a column-by-column order would show.
    codebook = weights["_vq_vae._embedding"] + 30
    places = np.random.default_rng(2).permutation(128)[:16]
    codebook[places] = vectors
    vae = MaskVae()
    arrays = {**weights, "_vq_vae._embedding": codebook.astype(np.float32)}
    vae.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    distances = ((vectors[:, None] - arrays["_vq_vae._embedding"][None]) ** 2).sum(-1)
    codes = vae.encode(torch.from_numpy(mask)[None])
    assert codes.shape == (1, 16)
    assert codes.dtype == torch.int64
    assert codes[0].tolist() == distances.argmin(1).tolist() == places.tolist()


def test_encode_treats_each_mask_of_a_batch_alone(vae: MaskVae) -> None:
    masks = torch.from_numpy((draw_masks(5) > 0.5).astype(np.float32))
    masks[0], masks[1] = 0, 1
    batch = vae.encode(masks)
    assert batch.shape == (5, 16)
    assert len({tuple(codes) for codes in batch.tolist()}) == 5
    assert torch.equal(batch, torch.cat([vae.encode(mask[None]) for mask in masks]))


def test_decoder_equals_its_definition(vae: MaskVae, weights: Weights) -> None:
    codes = np.random.default_rng(3).integers(0, 128, (2, 16))
    maps = vae.decode(torch.from_numpy(codes))
    assert maps.shape == (2, 64, 64)
    for map_, row in zip(maps.numpy(), codes, strict=True):
        expected = decode_by_definition(weights, row)
        assert expected.std() > 0.1
        np.testing.assert_allclose(map_, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "got"),
    [
        pytest.param((64, 64), "(64, 64)", id="no batch"),
        pytest.param((1, 1, 64, 64), "(1, 1, 64, 64)", id="with a channel"),
        pytest.param((2, 32, 64), "(2, 32, 64)", id="not scaled"),
    ],
)
def test_encode_refuses_another_shape(vae: MaskVae, shape: tuple[int, ...], got: str) -> None:
    with pytest.raises(ValueError, match=r"^Expected") as error:
        vae.encode(torch.zeros(shape))
    assert str(error.value) == f"Expected `masks` to be (N, 64, 64), but got {got}."


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        pytest.param([[0] * 15], "to be (N, 16), but got (1, 15).", id="fifteen"),
        pytest.param([0] * 16, "to be (N, 16), but got (16,).", id="no batch"),
        pytest.param([[0] * 15 + [128]], "to be from 0 to 127, but got 128.", id="too large"),
        pytest.param([[-1] + [0] * 15], "to be from 0 to 127, but got -1.", id="negative"),
    ],
)
def test_decode_refuses_other_codes(vae: MaskVae, codes: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=r"^Expected") as error:
        vae.decode(torch.tensor(codes))
    assert str(error.value) == f"Expected `codes` {message}"


def save(path: Path, arrays: Weights) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_load_gives_the_arrays_of_the_file(tmp_path: Path, weights: Weights) -> None:
    further = {
        "_vq_vae._ema_w": np.zeros(3),
        "decoder.0.bias": weights["decoder.0.bias"].astype(np.float64),
    }
    vae = load_mask_vae(save(tmp_path / "vae.npz", {**weights, **further}))
    state = vae.state_dict()
    assert all(np.array_equal(state[name].numpy(), array) for name, array in weights.items())
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in vae.parameters())
    assert not vae.training


def test_load_says_where_a_missing_file_is_published(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_mask_vae(tmp_path / "vae.npz")
    assert str(tmp_path / "vae.npz") in str(error.value)
    assert MASK_VAE_URL in str(error.value)


def drop(arrays: Weights) -> None:
    del arrays["encoder.9.net.4.bias"]


def swap_axes(arrays: Weights) -> None:
    arrays["decoder.6.weight"] = arrays["decoder.6.weight"].transpose(1, 0, 2, 3)


def transpose_codebook(arrays: Weights) -> None:
    arrays["_vq_vae._embedding"] = arrays["_vq_vae._embedding"].T


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            drop, "Expected {} to hold the array `encoder.9.net.4.bias`, but it does not.", id="gone"
        ),
        pytest.param(
            swap_axes,
            "Expected array `decoder.6.weight` of {} to be (128, 64, 4, 4), but got (64, 128, 4, 4).",
            id="axes swapped",
        ),
        pytest.param(
            transpose_codebook,
            "Expected array `_vq_vae._embedding` of {} to be (128, 512), but got (512, 128).",
            id="codebook transposed",
        ),
    ],
)
def test_load_names_the_array_that_is_wrong(
    tmp_path: Path, weights: Weights, change: Callable[[Weights], None], message: str
) -> None:
    arrays = dict(weights)
    change(arrays)
    path = save(tmp_path / "vae.npz", arrays)
    with pytest.raises(UserError) as error:
        load_mask_vae(path)
    assert str(error.value) == message.format(path)


def write_page(path: Path, weights: Weights) -> None:
    path.write_text("<html>please log in</html>")


def write_half(path: Path, weights: Weights) -> None:
    content = save(path, weights).read_bytes()
    path.write_bytes(content[: len(content) // 2])


def write_one_array(path: Path, weights: Weights) -> None:
    with path.open("wb") as file:
        np.save(file, weights["encoder.0.bias"])


def write_words(path: Path, weights: Weights) -> None:
    save(path, {**weights, "encoder.0.bias": np.array(["word"] * 16)})


WRONG_FILES = [
    pytest.param(write_page, id="a page"),
    pytest.param(write_half, id="half of the file"),
    pytest.param(write_one_array, id="an npy file"),
    pytest.param(write_words, id="words"),
]


@pytest.mark.parametrize("write", WRONG_FILES)
def test_load_explains_what_is_no_weights_file(
    tmp_path: Path, weights: Weights, write: Callable[[Path, Weights], None]
) -> None:
    path = tmp_path / "vae.npz"
    write(path, weights)
    with pytest.raises(
        UserError, match=r"^Expected .*vae\.npz to be an \.npz file of float arrays, but got: "
    ):
        load_mask_vae(path)


def test_fetch_downloads_once(tmp_path: Path, weights: Weights) -> None:
    published = save(tmp_path / "published.npz", weights)
    kept = tmp_path / "cache" / "masks" / "vae.npz"
    first = fetch_mask_vae(kept, published.as_uri())
    published.unlink()
    second = fetch_mask_vae(kept, published.as_uri())
    for vae in (first, second):
        assert np.array_equal(vae.codebook.numpy(), weights["_vq_vae._embedding"])
    assert [path.name for path in kept.parent.iterdir()] == ["vae.npz"]


@pytest.mark.parametrize("write", WRONG_FILES)
def test_fetch_keeps_nothing_that_is_no_weights_file(
    tmp_path: Path, weights: Weights, write: Callable[[Path, Weights], None]
) -> None:
    published = tmp_path / "published.npz"
    write(published, weights)
    with pytest.raises(UserError) as error:
        fetch_mask_vae(tmp_path / "cache" / "vae.npz", published.as_uri())
    assert f"Expected {published.as_uri()} to be an .npz file" in str(error.value)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        pytest.param("file:///no/such/place.npz", "No such file", id="not there"),
        pytest.param("vae-oid.npz", "unknown url type", id="no address"),
        pytest.param("http://127.0.0.1:9/vae.npz", "refused", id="no server"),
    ],
)
def test_fetch_explains_why_it_could_not_download(tmp_path: Path, url: str, reason: str) -> None:
    with pytest.raises(UserError) as error:
        fetch_mask_vae(tmp_path / "vae.npz", url)
    assert f"from {url} to {tmp_path / 'vae.npz'}" in str(error.value)
    assert reason in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_fetch_explains_a_full_disk(
    tmp_path: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = save(tmp_path / "published.npz", weights)

    def fill(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", fill)
    with pytest.raises(UserError, match="No space left on device"):
        fetch_mask_vae(tmp_path / "cache" / "vae.npz", published.as_uri())
    assert list((tmp_path / "cache").iterdir()) == []
