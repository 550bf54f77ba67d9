import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from architecture import LOC_TOKENS, SEG_TOKENS, build_tiny_config
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoProcessor, PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.model.load import TINY_BASE

PROCESSOR = PaliGemmaProcessor.from_pretrained(TINY_BASE)


def test_the_base_loads_as_any_checkpoint_does() -> None:
    model = PaliGemmaForConditionalGeneration.from_pretrained(TINY_BASE)
    assert type(AutoProcessor.from_pretrained(TINY_BASE)).__name__ == "PaliGemmaProcessor"
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_870_336


def test_the_base_is_at_most_four_megabytes_of_bfloat16() -> None:
    file = TINY_BASE / "model.safetensors"
    assert file.stat().st_size <= 4_000_000
    assert {tensor.dtype for tensor in load_file(file).values()} == {torch.bfloat16}


def test_location_and_segmentation_tokens_are_single_and_in_order() -> None:
    for tokens, count in ((LOC_TOKENS, 1024), (SEG_TOKENS, 128)):
        ids = PROCESSOR.tokenizer.convert_tokens_to_ids(list(tokens))
        assert ids == list(range(ids[0], ids[0] + count))
        together = "".join(tokens[:5])
        assert PROCESSOR.tokenizer(together, add_special_tokens=False)["input_ids"] == ids[:5]


@given(st.text())
def test_any_text_comes_back_from_its_tokens(text: str) -> None:
    tokenizer = PROCESSOR.tokenizer
    if any(token in text for token in tokenizer.all_special_tokens):
        return
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=False) == text.replace("\u2581", " ")


@pytest.mark.parametrize("backbone", ["gemma", "gemma2"])
def test_other_tiny_models_can_be_built(
    random_model: Callable[..., PaliGemmaForConditionalGeneration], backbone: str, tmp_path: Path
) -> None:
    random_model(backbone, hidden_size=64, num_layers=1).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["text_config"]["model_type"] == backbone


def test_a_picture_must_be_a_whole_number_of_patches() -> None:
    with pytest.raises(ValueError, match="not a multiple of the patch"):
        build_tiny_config(image_size=57)
