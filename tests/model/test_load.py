import json
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from architecture import build_tiny_config
from safetensors.torch import load_file, save_file
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.data.batches.collator import Collator
from finetune.errors import UserError
from finetune.example import Example
from finetune.model.load import (
    TINY_BASE,
    build_meta_model,
    choose_attention,
    load_config,
    load_model,
    load_processor,
)
from finetune.model.published import published_config
from tests.conftest import labelled_inputs, plain_inputs


def test_a_cached_checkpoint_out_of_reach_is_one_clear_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="is not in the local cache, and the Hub cannot be reached"):
        load_config("google/paligemma-3b-pt-224")


def test_a_folder_without_a_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no checkpoint: there is no config.json"):
        load_config(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        load_config(str(tmp_path))


def test_another_resolution_is_an_error_that_names_both() -> None:
    with pytest.raises(UserError, match="trained at 56 pixels, but model.resolution=224"):
        load_config("tiny", resolution=224)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    shutil.copytree(TINY_BASE, tmp_path / "base")
    return tmp_path / "base"


def test_a_half_written_checkpoint_is_an_error(checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(UserError, match="cannot be loaded"):
        load_model(str(checkpoint), load_config(str(checkpoint)))


def test_missing_weights_are_an_error_that_names_one(checkpoint: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    name = next(name for name in weights if name.endswith("layers.1.mlp.up_proj.weight"))
    del weights[name]
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"do not fit its config.json: 1 missing: .*up_proj"):
        load_model(str(checkpoint), load_config(str(checkpoint)))


def change_weights(
    folder: Path, change: Callable[[dict[str, torch.Tensor], str], object], end: str
) -> None:
    """Change the stored weight whose name has this end."""
    weights = load_file(folder / "model.safetensors")
    change(weights, next(name for name in weights if name.endswith(end)))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_weights_that_the_architecture_does_not_know_are_an_error(checkpoint: Path) -> None:
    def add(weights: dict[str, torch.Tensor], name: str) -> None:
        for layer in (7, 8, 9, 10):
            weights[name.replace(".1.", f".{layer}.")] = weights[name].clone()

    change_weights(checkpoint, add, "layers.1.mlp.up_proj.weight")
    with pytest.raises(UserError, match=r"4 unexpected: .*layers\.10\.mlp.*, \.\.\.\. The checkpoint"):
        load_model(str(checkpoint), load_config(str(checkpoint)))


def test_weights_of_another_shape_are_an_error_that_names_both(checkpoint: Path) -> None:
    def cut(weights: dict[str, torch.Tensor], name: str) -> None:
        weights[name] = weights[name][:100].clone()

    change_weights(checkpoint, cut, "layers.1.mlp.up_proj.weight")
    with pytest.raises(UserError, match=r"1 of another shape: .*up_proj.weight \(\[100, 128\] for"):
        load_model(str(checkpoint), load_config(str(checkpoint)))


def test_the_buffers_that_older_versions_stored_are_no_error(checkpoint: Path) -> None:
    def add(weights: dict[str, torch.Tensor], name: str) -> None:
        weights[name.replace("post_layernorm.weight", "embeddings.position_ids")] = torch.arange(64)[None]

    change_weights(checkpoint, add, "post_layernorm.weight")
    load_model(str(checkpoint), load_config(str(checkpoint)))


def test_a_checkpoint_of_pickles_is_refused(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin is a pickle, which could run code"):
        load_model(str(checkpoint), load_config(str(checkpoint)))


def test_a_checkpoint_without_weights_is_one_message(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot be loaded"):
        load_model(str(checkpoint), load_config(str(checkpoint)))


def test_missing_tokenizer_files_are_an_error(checkpoint: Path) -> None:
    for file in checkpoint.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UserError, match="cannot be loaded"):
        load_processor(str(checkpoint))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_come_in_the_format_asked_for(dtype: torch.dtype) -> None:
    model = load_model("tiny", load_config("tiny"), dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


def test_the_backbone_decides_the_attention() -> None:
    one, two = (published_config(f"google/paligemma{n}-3b-pt-224") for n in ("", "2"))
    assert one is not None
    assert two is not None
    assert (choose_attention(one), choose_attention(two)) == ("sdpa", "eager")
    assert choose_attention(one, "eager") == "eager"
    with pytest.raises(UserError, match="cannot compute PaliGemma 2's attention soft-cap"):
        choose_attention(two, "sdpa")


@pytest.mark.parametrize("keep", [False, True])
def test_the_final_soft_cap_is_off_unless_asked_for(checkpoint: Path, keep: bool) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["text_config"]["final_logit_softcapping"] = 30.0
    (checkpoint / "config.json").write_text(json.dumps(config))
    model = load_model(
        str(checkpoint), load_config(str(checkpoint)), final_logit_softcap=keep, dtype=torch.float32
    )
    assert getattr(model.config.get_text_config(), "final_logit_softcapping", None) == (
        30.0 if keep else None
    )


@pytest.mark.parametrize("side", [56, 63], ids=["as-long-as-an-image", "longer"])
def test_paligemma_2_has_no_window(
    processor: PaliGemmaProcessor,
    make_example: Callable[..., Example],
    tmp_path: Path,
    side: int,
) -> None:
    """Gemma 2's window of 4,096 is the length of an image of 896 pixels: here 64 for 64 patches."""
    torch.manual_seed(0)
    config = build_tiny_config("gemma2", num_layers=2, hidden_size=64, tokenizer=processor.tokenizer)
    config.text_config.sliding_window = (side // 7) ** 2
    PaliGemmaForConditionalGeneration(config).save_pretrained(tmp_path)
    model = load_model(str(tmp_path), load_config(str(tmp_path)), dtype=torch.float32).eval()
    without = load_config(str(tmp_path))
    without.text_config.layer_types = ["full_attention"] * 2
    reference = load_model(str(tmp_path), without, dtype=torch.float32).eval()

    collator = Collator(processor)
    batch = labelled_inputs(collator([make_example("a red circle and a blue square")]))
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, reference(**batch).logits)
    prompt = plain_inputs(collator.build_prompts([make_example()]))
    one, other = (
        learner.generate(
            **prompt,
            max_new_tokens=6,
            min_new_tokens=6,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        for learner in (model, reference)
    )
    assert torch.equal(torch.stack(one.logits), torch.stack(other.logits))
    assert (
        build_meta_model(load_config(str(tmp_path)), torch.bfloat16).config.text_config.sliding_window > 1e6
    )
