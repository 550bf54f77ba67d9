"""A checkpoint from the Hub or a folder, checked before its weights are read."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.errors import UserError
from finetune.hub import HTTP, download, explain
from finetune.model.lora import Quantization
from finetune.model.options import COMMIT
from finetune.strict_json import parse_json

log = logging.getLogger(__name__)

TINY_BASE = Path(__file__).resolve().parents[1] / "assets" / "tiny"
"""The base shipped with the package, which `scripts/pretrain_tiny` makes."""

LONGER_THAN_ANY_SEQUENCE = 2**24
"""Tokens; a window of this length hides nothing."""

_BUFFERS = ("position_ids", "rotary_emb.inv_freq")
"""Ends of names that older versions of transformers stored although they follow from the config."""


def resolve_path(path: str) -> str:
    """Return the folder of the shipped base for `tiny`, and any other path as it is."""
    return str(TINY_BASE) if path == "tiny" else path


def load_config(path: str, revision: str | None = None, resolution: int | None = None) -> PaliGemmaConfig:
    """Read a checkpoint's configuration and check that it is what the run expects.

    Args:
        path: Hub id, folder, or `tiny`.
        revision: branch, tag or commit on the Hub.
        resolution: side of the images, pixels; None accepts any.

    Raises:
        UserError: it cannot be reached, is not a PaliGemma, or is of another resolution.
    """
    folder = resolve_path(path)
    file = find_file(folder, "config.json", revision=revision)
    raw = read_object(file)
    if raw.get("model_type") != "paligemma":
        raise UserError(
            f"`{path}` is not a PaliGemma: its config.json says model_type={raw.get('model_type')!r}."
        )
    config: PaliGemmaConfig = PaliGemmaConfig.from_pretrained(file.parent)
    size = int(config.vision_config.image_size)
    if resolution is not None and resolution != size:
        raise UserError(
            f"`{path}` was trained at {size} pixels, but model.resolution={resolution}. Choose the "
            f"checkpoint of that resolution, or model.resolution={size}."
        )
    return config


def read_object(file: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        UserError: it does not.
    """
    try:
        raw = parse_json(file.read_bytes())
    except (ValueError, OSError) as error:
        raise UserError(f"{file} is not JSON ({error}). Copy or download it again.") from error
    if not isinstance(raw, dict):
        raise UserError(f"{file}: expected a JSON object, got {type(raw).__name__}. Download it again.")
    return raw


def find_file(path: str, name: str, kind: str = "checkpoint", revision: str | None = None) -> Path:
    """Return one file of a folder, or download it from a repository on the Hub.

    Args:
        path: the folder or the Hub id.
        name: of the file.
        kind: `checkpoint` or `adapter`, for messages.
        revision: branch, tag or commit on the Hub.

    Raises:
        UserError: there is no such file, or it cannot be reached.
    """
    folder = Path(path)
    if folder.is_dir():
        if not (folder / name).is_file():
            inside = folder / kind / name
            hint = f" Did you mean {inside.parent}?" if inside.is_file() else ""
            raise UserError(f"{folder} holds no {kind}: there is no {name} in it.{hint}")
        return folder / name
    if revision is None or not COMMIT.fullmatch(revision):  # later files are asked for by commit
        log.info("looking up %s on the Hub", path)
    return download(path, name, kind, revision)


def load_processor(path: str, revision: str | None = None) -> PaliGemmaProcessor:
    """Load tokenizer and image processor; images are always resized by Pillow.

    Raises:
        UserError: the files are missing.
    """
    try:
        return PaliGemmaProcessor.from_pretrained(resolve_path(path), revision=revision, backend="pil")
    except (OSError, ValueError, HTTP.HTTPError) as error:
        reason = explain(error, "checkpoint", path, revision)
        raise UserError(
            reason or f"`{path}`: tokenizer or image processor cannot be loaded: {error}"
        ) from error


def choose_attention(config: PaliGemmaConfig, attention: str = "auto") -> str:
    """Return `sdpa` or `eager` for the language model.

    Evaluations use it, and trainings unless `kernels.py` chooses another.

    Raises:
        UserError: a kernel was asked for that cannot compute the backbone's attention soft-cap.
    """
    capped = config.text_config.model_type == "gemma2"
    if capped and attention.startswith(("sdpa", "split_")) and attention != "split_eager":
        raise UserError(
            f"model.attention={attention} cannot compute PaliGemma 2's attention soft-cap; choose auto, "
            "eager, split_eager or flex."
        )
    if attention in ("sdpa", "eager"):
        return attention
    return "eager" if capped else "sdpa"


def load_model(
    path: str,
    config: PaliGemmaConfig,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.bfloat16,
    attention: str = "auto",
    final_logit_softcap: bool = False,
    quantization: Quantization | None = None,
    device: torch.device | None = None,
) -> PaliGemmaForConditionalGeneration:
    """Load the weights.

    Args:
        path: Hub id, folder, or `tiny`.
        config: from `load_config`; changed in place.
        revision: branch, tag or commit on the Hub.
        dtype: format of the weights.
        attention: `model.attention`; see `choose_attention`.
        final_logit_softcap: keep PaliGemma 2's soft-cap on the logits.
        quantization: of the linear layers.
        device: where quantized weights go; others are moved by the trainer.

    Raises:
        UserError: weights are missing, unknown, of another shape, damaged, or pickles.
    """
    folder = resolve_path(path)
    _refuse_pickles(Path(folder))
    use_as_big_vision(config, final_logit_softcap)
    try:
        model, info = PaliGemmaForConditionalGeneration.from_pretrained(
            folder,
            config=config,
            revision=revision,
            dtype=dtype,
            attn_implementation={
                "": "sdpa",
                "vision_config": "sdpa",
                "text_config": choose_attention(config, attention),
            },
            quantization_config=quantization.to_config() if quantization else None,
            device_map={"": device} if quantization and device else None,
            output_loading_info=True,
            use_safetensors=True,
            # Reported below, all of them at once.
            ignore_mismatched_sizes=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError, HTTP.HTTPError) as error:
        reason = explain(error, "checkpoint", path, revision)
        text = " ".join(str(error).split())
        raise UserError(reason or f"The weights of `{path}` cannot be loaded: {text}") from error
    _check_all_loaded(path, info)
    if quantization is not None:
        quantization.assert_on(model)
        quantization.keep_gradients_on_cpu(model)
    return model


def use_as_big_vision(config: PaliGemmaConfig, final_logit_softcap: bool = False) -> None:
    """Undo what transformers adds to the architecture that the checkpoints were trained with.

    Gemma 2 alternates full layers with layers that see the last 4,096 tokens. PaliGemma 2 was trained
    without such a window, and 4,096 is the length of an image of 896 pixels alone: in every second layer
    the answer would not see the first patches.

    Args:
        config: changed in place.
        final_logit_softcap: keep PaliGemma 2's soft-cap on the logits.

    Source: google-research/big_vision, models/ppp/gemma.py (`Attention`, which has no window).
    """
    if not final_logit_softcap:
        config.text_config.final_logit_softcapping = None
    if getattr(config.text_config, "sliding_window", None) is not None:
        config.text_config.sliding_window = LONGER_THAN_ANY_SEQUENCE


def _refuse_pickles(folder: Path) -> None:
    """Raise if a folder has weights as pickles only, which could run code when they are read."""
    pickles = sorted(folder.glob("pytorch_model*.bin")) if folder.is_dir() else []
    if pickles and not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{pickles[0]} is a pickle, which could run code when it is read: only safetensors are. "
            "Save the checkpoint anew with save_pretrained, or download its safetensors files."
        )


def _check_all_loaded(path: str, info: Mapping[str, Iterable[Any]]) -> None:
    """Check that file and model have the same weights, except tied ones and buffers.

    Raises:
        UserError: lists what is missing, unexpected or of another shape.
    """
    unexpected = [name for name in info["unexpected_keys"] if not name.endswith(_BUFFERS)]
    shapes = [
        f"{name} ({list(stored)} for {list(expected)})"
        for name, stored, expected in info["mismatched_keys"]
    ]
    problems = list_differences(
        missing=info["missing_keys"], unexpected=unexpected, of_another_shape=shapes
    )
    if problems:
        raise UserError(
            f"The weights of `{path}` do not fit its config.json: {problems}. The checkpoint is incomplete "
            "or of another version: download it again."
        )


def list_differences(**groups: Iterable[str]) -> str:
    """Describe groups of names: how many each has, and the first few; empty if none has any."""
    counted = {label.replace("_", " "): sorted(names) for label, names in groups.items()}
    return "; ".join(
        f"{len(names)} {label}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        for label, names in counted.items()
        if names
    )


def build_meta_model(config: PaliGemmaConfig, dtype: torch.dtype) -> PaliGemmaForConditionalGeneration:
    """Build the architecture on the meta device: shapes and names, no weights."""
    use_as_big_vision(config)
    with torch.device("meta"):
        model = PaliGemmaForConditionalGeneration(config)
    return model.to(dtype)
