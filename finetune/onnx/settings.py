"""The JSON files from which Transformers.js learns what a model is, and how its inputs are made."""

from typing import Any

from transformers import PaliGemmaConfig, PaliGemmaProcessor

from finetune.onnx.options import ExportDtype

_LANCZOS = 1
"""In place of the training's bicubic kernel, for Transformers.js in Node: it applies bicubic and bilinear
kernels without antialiasing, and Lanczos's with it. On 100 enlarged digits a trained tiny base gave 86 of
the answers to Pillow's bicubic pixels with the bicubic kernel, and all 100 with this one. In a browser the
value is ignored; the page resizes by `pixels.js`."""


def describe_model(config: PaliGemmaConfig, dtype: ExportDtype, parts: dict[str, int]) -> dict[str, Any]:
    """Return the content of `config.json`.

    Args:
        config: of the model.
        dtype: of the files.
        parts: name of each graph's file -> number of files with its weights.
    """
    settings: dict[str, Any] = {"dtype": dtype.value}
    if divided := {name: count for name, count in parts.items() if count}:
        settings["use_external_data_format"] = divided
    return {
        **config.to_dict(),
        "architectures": ["PaliGemmaForConditionalGeneration"],
        "image_token_index": config.image_token_id,
        "transformers.js_config": settings,
    }


def describe_images(processor: PaliGemmaProcessor) -> dict[str, Any]:
    """Return the content of `preprocessor_config.json`."""
    images = processor.image_processor
    return {
        "image_processor_type": "SiglipImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": images.size["height"], "width": images.size["width"]},
        "resample": _LANCZOS,
        "do_rescale": True,
        "rescale_factor": images.rescale_factor,
        "do_normalize": True,
        "image_mean": list(images.image_mean),
        "image_std": list(images.image_std),
        "image_seq_length": processor.image_seq_length,
        "processor_class": "PaliGemmaProcessor",
    }
