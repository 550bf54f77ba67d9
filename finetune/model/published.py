"""The published architectures, so that a plan needs neither network nor licence.

Source: the `config.json` of the checkpoints on the Hub.
"""

import re

from transformers import PaliGemmaConfig

VOCABULARY = 257_152
"""Size of big_vision's vocabulary: 256,000 of Gemma's pieces, 1,024 `<loc>` and 128 `<seg>`."""

ROWS = 257_216
"""Rows of the embedding in the converted checkpoints: the vocabulary, `<image>`, up to a multiple of 64."""

_GEMMA = {
    "model_type": "gemma",
    "hidden_size": 2048,
    "num_hidden_layers": 18,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "intermediate_size": 16384,
}
_GEMMA_2 = {
    "3b": (2304, 26, 8, 4, 256, 9216, 256),
    "10b": (3584, 42, 16, 8, 256, 14336, 256),
    "28b": (4608, 46, 32, 16, 128, 36864, 144),
}
_GEMMA_2_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "query_pre_attn_scalar",
)
_NAME = re.compile(r"google/paligemma(2?)-(3b|10b|28b)-\w+-(224|448|896)")


def published_config(path: str) -> PaliGemmaConfig | None:
    """Return the architecture of one of Google's checkpoints; None for any other name."""
    match = _NAME.fullmatch(path)
    if not match or (not match[1] and match[2] != "3b"):
        return None
    text = dict(_GEMMA)
    if match[1]:
        text = dict(zip(_GEMMA_2_FIELDS, _GEMMA_2[match[2]], strict=True))
        text |= {"model_type": "gemma2", "attn_logit_softcapping": 50.0, "sliding_window": 4096}
        text |= {"final_logit_softcapping": 30.0}
    resolution = int(match[3])
    return PaliGemmaConfig(
        text_config=text | {"vocab_size": ROWS, "num_image_tokens": (resolution // 14) ** 2},
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 1152,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "intermediate_size": 4304,
            "patch_size": 14,
            "image_size": resolution,
            "projection_dim": text["hidden_size"],
            "vision_use_head": False,
        },
        projection_dim=text["hidden_size"],
        image_token_index=VOCABULARY,
    )
