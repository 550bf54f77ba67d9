"""Graphs of random models answer as the models do: with padding, soft-caps, and weights in other files."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.data.batches.collator import Collator
from finetune.errors import UserError
from finetune.example import Example
from finetune.generation.generate import generate_tokens
from finetune.generation.options import GenerationOptions
from finetune.onnx import graphs as module
from finetune.onnx.graphs import DECODER, EMBEDDING, VISION, build_graphs
from finetune.onnx.options import ExportDtype
from finetune.onnx.parity import TIE, Parity, Reference, compare
from finetune.onnx.session import OnnxModel
from finetune.onnx.write import write_graph

STEPS = 6


def build_reference(
    model: PaliGemmaForConditionalGeneration,
    processor: PaliGemmaProcessor,
    make_example: Callable[..., Example],
) -> Reference:
    """Prompts of different lengths, so that some are padded, and the model's answers."""
    prefixes = ["caption en", "answer en how many red circles are there?", "detect circle"]
    examples = [make_example(prefix=prefix, seed=seed) for seed, prefix in enumerate(prefixes * 2)]
    # Graphs take pixels as floats.
    prompts = Collator(processor, uint8_pixels=False).build_prompts(examples)
    tokens, _ = generate_tokens(
        model, prompts, processor.tokenizer, GenerationOptions(max_new_tokens=STEPS)
    )
    return Reference(prompts, tokens.numpy())


def sharpen(model: PaliGemmaForConditionalGeneration) -> PaliGemmaForConditionalGeneration:
    """Give attention a say: in a new model the embedding of the last token alone decides."""
    for name, parameter in model.named_parameters():
        if "proj.weight" in name:
            parameter.data *= 3
    return model.eval()


def export(
    model: PaliGemmaForConditionalGeneration, folder: Path, most_bytes: int = 10**9
) -> dict[str, int]:
    return {
        graph.name: write_graph(graph, folder, ExportDtype.fp32, most_bytes)[1]
        for graph in build_graphs(model)
    }


@pytest.mark.slow
@pytest.mark.parametrize("text", ["gemma", "gemma2"])
def test_graphs_choose_the_tokens_of_the_model(
    text: str,
    random_model: Callable[..., PaliGemmaForConditionalGeneration],
    processor: PaliGemmaProcessor,
    make_example: Callable[..., Example],
    tmp_path: Path,
) -> None:
    model = sharpen(random_model(text, num_layers=2))
    if text == "gemma2":
        # Strong enough to change answers if they were left out.
        model.config.text_config.final_logit_softcapping = 2.0
        for layer in model.model.language_model.layers:
            layer.self_attn.attn_logit_softcapping = 0.5
    reference = build_reference(model, processor, make_example)
    parts = export(model, tmp_path, 300_000 if text == "gemma2" else 10**9)
    parity = compare(OnnxModel(tmp_path, ExportDtype.fp32, processor.image_token_id), [reference], 1)
    parity.check(ExportDtype.fp32)
    assert (parity.answers, parity.equal) == (6, 6)
    if text == "gemma2":
        for name in (VISION, EMBEDDING, DECODER):
            files = [
                tmp_path / f"{name}.onnx_data{f'_{number}' if number else ''}"
                for number in range(parts[name])
            ]
            assert files
            assert all(file.is_file() for file in files)
    else:
        assert set(parts.values()) == {0}


def build_causal_mask(embeds: torch.Tensor, mask: torch.Tensor, past: int) -> torch.Tensor:
    """What a graph would have that knows nothing of the prefix."""
    before = torch.arange(mask.shape[1])[None] <= torch.arange(embeds.shape[1])[:, None] + past
    return torch.where(before[None, None] & (mask != 0)[:, None, None], 0.0, torch.finfo(torch.float32).min)


@pytest.mark.slow
def test_a_causal_mask_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
    random_model: Callable[..., PaliGemmaForConditionalGeneration],
    processor: PaliGemmaProcessor,
    make_example: Callable[..., Example],
    tmp_path: Path,
) -> None:
    model = sharpen(random_model(num_layers=2))  # in one layer the last token sees the same
    reference = build_reference(model, processor, make_example)
    monkeypatch.setattr(module, "_build_mask", build_causal_mask)
    export(model, tmp_path)
    parity = compare(OnnxModel(tmp_path, ExportDtype.fp32, processor.image_token_id), [reference], 1)
    assert parity.equal < parity.answers
    assert parity.widest > TIE


def test_transformers_js_knows_the_inputs_of_the_decoder(
    random_model: Callable[..., PaliGemmaForConditionalGeneration], tmp_path: Path
) -> None:
    decoder = build_graphs(random_model(num_layers=1).eval())[-1]
    file, _ = write_graph(decoder, tmp_path, ExportDtype.fp32)
    graph = onnx.load(file).graph
    shapes = {
        node.name: [axis.dim_param or axis.dim_value for axis in node.type.tensor_type.shape.dim]
        for node in graph.input
    }
    # It begins an empty cache with these names: `batch_size` rows, and any other name is 0.
    assert shapes["past_key_values.0.key"] == ["batch_size", 1, "past_sequence_length", 32]
    assert list(shapes)[:3] == ["inputs_embeds", "attention_mask", "position_ids"]
    assert [node.name for node in graph.output] == ["logits", "present.0.key", "present.0.value"]


@pytest.mark.parametrize(
    ("dtype", "equal_tokens", "widest", "message"),
    [
        pytest.param(ExportDtype.fp32, 99, 0.0005, None, id="a tie"),
        pytest.param(
            ExportDtype.fp32, 99, 0.5, "9 of 10 answers and 99 of 100 tokens", id="another answer"
        ),
        pytest.param(ExportDtype.q8, 80, 3.0, None, id="8 bits"),
        pytest.param(ExportDtype.q8, 49, 3.0, "Choose dtype=fp32", id="damaged by 8 bits"),
    ],
)
def test_graphs_that_do_not_agree_are_refused(
    dtype: ExportDtype, equal_tokens: int, widest: float, message: str | None
) -> None:
    parity = Parity(answers=10, equal=9, tokens=100, equal_tokens=equal_tokens, widest=widest)
    if message is None:
        parity.check(dtype)
        return
    with pytest.raises(UserError, match=message):
        parity.check(dtype)
