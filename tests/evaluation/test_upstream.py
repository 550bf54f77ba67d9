"""What `finetune/evaluation` relies on in transformers' generation.

Each test uses the library alone and fails when an update changes what it is relied on for.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PaliGemmaForConditionalGeneration

Build = Callable[..., PaliGemmaForConditionalGeneration]


@pytest.fixture
def prompt(processor: object) -> dict[str, Tensor]:
    image = processor.tokenizer.convert_tokens_to_ids("<image>")  # type: ignore[attr-defined]
    ids = torch.cat([torch.full((64,), image), torch.arange(40, 43)])[None]
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
        "pixel_values": torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(0)),
    }


def test_a_length_penalty_of_zero_is_the_sum_of_the_log_probabilities(
    random_model: Build, prompt: dict[str, Tensor]
) -> None:
    """Else beams are compared per token, which is not the paper's decoding and prefers other answers."""
    model = random_model().eval()
    found = model.generate(
        **prompt,
        max_new_tokens=4,
        do_sample=False,
        num_beams=3,
        length_penalty=0.0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    steps = model.compute_transition_scores(found.sequences, found.scores, found.beam_indices)
    assert steps.shape[1] > 1
    assert found.sequences_scores.item() == pytest.approx(steps.sum().item(), abs=1e-4)


class Recorder(LogitsProcessor):
    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.steps.append(scores.clone())
        return scores


def test_a_processor_sees_the_models_own_logits_at_each_greedy_step(
    random_model: Build, prompt: dict[str, Tensor]
) -> None:
    """Else the confidence of an answer is that of changed logits, or of other tokens than it has."""
    model = random_model().eval()
    recorder = Recorder()
    found = model.generate(
        **prompt,
        max_new_tokens=4,
        do_sample=False,
        logits_processor=LogitsProcessorList([recorder]),
        return_dict_in_generate=True,
        output_logits=True,
    )
    new = found.sequences[0, prompt["input_ids"].shape[1] :]
    assert len(recorder.steps) == len(new)
    for token, seen, raw in zip(new.tolist(), recorder.steps, found.logits, strict=True):
        assert torch.equal(seen, raw.float())
        assert int(seen.argmax()) == token
