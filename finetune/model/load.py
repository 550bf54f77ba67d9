"""A checkpoint from the Hub or a folder, checked before its weights are read."""

import json
import logging
import warnings
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from peft import PeftModel
from safetensors import SafetensorError
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.errors import UserError
from finetune.model.lora import Quantization
from finetune.model.tiny import TINY_BASE

log = logging.getLogger(__name__)

_LICENCE = "Accept its licence on its Hub page, then run `hf auth login` or set HF_TOKEN."


def resolve_path(path: str) -> str:
    """Return the folder of the shipped base for `tiny`, and any other path as it is."""
    return str(TINY_BASE) if path == "tiny" else path


def load_config(path: str, revision: str | None = None, resolution: int | None = None) -> PaliGemmaConfig:
    """Read a checkpoint's configuration and check that it is what the run expects.

    Args:
        path: Hub id, folder, or `tiny`.
        revision: branch, tag or commit on the Hub.
        resolution: picture side, pixels; null accepts any.

    Raises:
        UserError: it cannot be reached, is no PaliGemma, or is of another resolution.
    """
    folder = resolve_path(path)
    file = _find_config(folder, revision)
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{file} is not JSON ({error}). Download the checkpoint again.") from error
    if raw.get("model_type") != "paligemma":
        raise UserError(
            f"`{path}` is no PaliGemma: its config.json says model_type={raw.get('model_type')!r}."
        )
    config: PaliGemmaConfig = PaliGemmaConfig.from_pretrained(file.parent)
    size = int(config.vision_config.image_size)
    if resolution is not None and resolution != size:
        raise UserError(
            f"`{path}` was trained at {size} pixels, but model.resolution={resolution}. Choose the "
            f"checkpoint of that resolution, or model.resolution={size}."
        )
    return config


def _find_config(path: str, revision: str | None) -> Path:
    folder = Path(path)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder} holds no checkpoint: there is no config.json in it.")
        return folder / "config.json"
    log.info("looking up %s on the Hub", path)
    try:
        return Path(hf_hub_download(path, "config.json", revision=revision))
    except GatedRepoError as error:
        raise UserError(f"The checkpoint `{path}` is gated. {_LICENCE}") from error
    except RevisionNotFoundError as error:
        raise UserError(f"The checkpoint `{path}` has no revision `{revision}`.") from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"There is no checkpoint `{path}` on the Hub, nor a folder of that name; or it is "
            f"private. {_LICENCE}"
        ) from error
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"The checkpoint `{path}` is not in the local cache, and the Hub cannot be reached. Check "
            "the network, or give a folder: model=FOLDER (model=tiny needs neither)."
        ) from error
    except EntryNotFoundError as error:
        raise UserError(f"`{path}` is no checkpoint: it has no config.json.") from error
    except HFValidationError as error:
        raise UserError(f"`{path}` is neither a folder nor a Hub id (USER/NAME).") from error
    except (HfHubHTTPError, OSError) as error:
        raise UserError(f"The checkpoint `{path}` cannot be read from the Hub: {error}") from error


def load_processor(path: str, revision: str | None = None) -> PaliGemmaProcessor:
    """Load tokenizer and image processor; pictures are always resized by Pillow.

    Raises:
        UserError: the files are missing.
    """
    try:
        return PaliGemmaProcessor.from_pretrained(resolve_path(path), revision=revision, backend="pil")
    except (OSError, ValueError) as error:
        raise UserError(f"`{path}`: tokenizer or image processor cannot be loaded: {error}") from error


def choose_attention(config: PaliGemmaConfig, attention: str = "auto") -> str:
    """Return `sdpa` or `eager` for the language model.

    Raises:
        UserError: sdpa was asked for a backbone whose attention soft-cap it cannot compute.
    """
    capped = config.text_config.model_type == "gemma2"
    if attention == "auto":
        return "eager" if capped else "sdpa"
    if attention == "sdpa" and capped:
        raise UserError(
            "model.attention=sdpa cannot compute PaliGemma 2's attention soft-cap; choose auto or eager."
        )
    return attention


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
        attention: `auto`, `sdpa` or `eager`, for the language model.
        final_logit_softcap: keep PaliGemma 2's soft-cap on the logits.
        quantization: of the linear layers.
        device: where quantised weights go; others are moved by the trainer.

    Raises:
        UserError: weights are missing or do not fit.
    """
    if not final_logit_softcap:
        config.text_config.final_logit_softcapping = None
    try:
        model, info = PaliGemmaForConditionalGeneration.from_pretrained(
            resolve_path(path),
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
        )
    except GatedRepoError as error:
        raise UserError(f"The checkpoint `{path}` is gated. {_LICENCE}") from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"The weights of `{path}` cannot be loaded: {error}") from error
    if info["missing_keys"]:
        raise UserError(
            f"`{path}` lacks weights, such as {sorted(info['missing_keys'])[0]}: it is incomplete, or "
            "of another version. Download it again."
        )
    if quantization is not None:
        quantization.assert_on(model)
        quantization.keep_gradients_on_cpu(model)
    return model


def load_adapter(model: PaliGemmaForConditionalGeneration, path: str) -> PeftModel:
    """Put a trained adapter on its base, and refuse one that does not fit.

    Args:
        model: the base.
        path: Hub id or folder of the adapter.

    Raises:
        UserError: there is no adapter, or its weights match no layer of this base.
    """
    with warnings.catch_warnings():
        # peft would go on with fresh adapters, which is the base model without a word.
        warnings.filterwarnings("error", "Found missing adapter keys")
        try:
            return PeftModel.from_pretrained(model, path)
        except UserWarning as error:
            raise UserError(
                f"The adapter `{path}` does not fit this base: it was made for other layers or by "
                f"another version of transformers ({str(error)[:200]}...)."
            ) from error
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise UserError(f"The adapter `{path}` cannot be loaded on this base: {error}") from error


def build_meta_model(config: PaliGemmaConfig, dtype: torch.dtype) -> PaliGemmaForConditionalGeneration:
    """Build the architecture without memory: shapes and names, no weights."""
    with torch.device("meta"):
        model = PaliGemmaForConditionalGeneration(config)
    return model.to(dtype)
