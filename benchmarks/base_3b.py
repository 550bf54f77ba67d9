"""A checkpoint folder with a published architecture and random bfloat16 weights, made once.

Its tokenizer is the tiny base's, so that no download is needed; ids above its vocabulary are never read.
"""

import json
from pathlib import Path

import torch
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.model.load import TINY_BASE
from finetune.model.published import published_config

COMPLETE = "complete.json"


def make_base(folder: Path, name: str) -> Path:
    """Return the folder of a random checkpoint, which is made if it does not exist.

    Args:
        folder: for all such checkpoints.
        name: of a published checkpoint, such as `google/paligemma-3b-pt-224`.
    """
    target = folder / name.replace("/", "_")
    if (target / COMPLETE).is_file():
        return target
    config = published_config(name)
    if config is None:
        raise SystemExit(f"{name} is not a published checkpoint.")
    processor = PaliGemmaProcessor.from_pretrained(TINY_BASE)
    side = config.vision_config.image_size
    processor.image_processor.size = {"height": side, "width": side}
    processor.image_processor.image_seq_length = config.text_config.num_image_tokens
    processor.image_seq_length = config.text_config.num_image_tokens
    config.image_token_id = processor.image_token_id
    for part in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config.text_config, part, getattr(processor.tokenizer, part))
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        model = PaliGemmaForConditionalGeneration(config).to(torch.bfloat16)
    model.to_empty(device="cpu")
    model.tie_weights()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            # Norms of Gemma are 1 + weight. Zeros would be faster than real weights on a GPU.
            parameter.normal_(0, 0.02, generator=generator)
            if "layer_norm" in parameter_name and parameter_name.endswith("weight"):
                parameter.add_(1)
    model.save_pretrained(target)
    processor.save_pretrained(target)
    (target / COMPLETE).write_text(json.dumps({"name": name}))
    return target
