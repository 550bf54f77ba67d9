from collections.abc import Callable

import pytest
import torch
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.data.collator import Collator
from finetune.evaluation.generate import Generation, generate_answers
from finetune.example import Example
from finetune.model.load import load_config, load_model
from finetune.tasks.task import Answer

MakeExample = Callable[..., Example]


@pytest.fixture(scope="module")
def base() -> PaliGemmaForConditionalGeneration:
    return load_model("tiny", load_config("tiny"), dtype=torch.float32).eval()


@pytest.fixture
def examples(make_example: MakeExample) -> list[Example]:
    return [
        make_example(prefix="caption en", seed=1),
        make_example(prefix="answer en how many shapes are there in this picture?", seed=2),
        make_example(prefix="ocr", seed=3),
    ]


@pytest.mark.parametrize("beams", [1, 3])
def test_a_batch_answers_as_each_example_alone(
    base: PaliGemmaForConditionalGeneration,
    processor: PaliGemmaProcessor,
    examples: list[Example],
    beams: int,
) -> None:
    collator = Collator(processor)

    def answer(part: list[Example]) -> list[Answer]:
        batch = {**collator.build_prompt(part), **collator.build_pixels(part)}
        options = Generation(max_new_tokens=12, num_beams=beams)
        return generate_answers(base, batch, processor.tokenizer, options)

    together = answer(examples)
    for one, alone in zip(together, [answer([example])[0] for example in examples], strict=True):
        assert one[0] == alone[0]
        assert one[1] == pytest.approx(alone[1], abs=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_the_confidence_is_the_mean_probability_under_a_plain_forward(
    base: PaliGemmaForConditionalGeneration,
    processor: PaliGemmaProcessor,
    examples: list[Example],
    beams: int,
) -> None:
    collator = Collator(processor)
    prompt = {**collator.build_prompt(examples), **collator.build_pixels(examples)}
    options = Generation(max_new_tokens=12, num_beams=beams)
    answers = generate_answers(base, prompt, processor.tokenizer, options)
    for example, answer in zip(examples, answers, strict=True):
        assert "<eos>" not in answer.text
        assert "<pad>" not in answer.text
        spoken = Example(example.id, example.images, example.prefix, (answer.text,))
        batch = collator([spoken])
        labels = batch.pop("labels")
        del batch["ids"]
        probabilities = base(**batch).logits.softmax(-1)[0, :-1]
        kept = labels[0, 1:] != -100
        chosen = probabilities[kept].gather(1, labels[0, 1:][kept][:, None])[:, 0]
        # An answer cut at max_new_tokens has no EOS of its own.
        values = [chosen.mean().item(), chosen[:-1].mean().item()]
        assert any(answer.confidence == pytest.approx(value, abs=1e-4) for value in values)


def test_the_logits_of_training_and_of_generation_agree(
    base: PaliGemmaForConditionalGeneration, processor: PaliGemmaProcessor, examples: list[Example]
) -> None:
    collator = Collator(processor)
    prompt = {**collator.build_prompt(examples[:1]), **collator.build_pixels(examples[:1])}
    result = base.generate(
        **prompt, max_new_tokens=4, do_sample=False, return_dict_in_generate=True, output_logits=True
    )
    length = result.sequences.shape[1] - prompt["input_ids"].shape[1]
    ones = torch.ones(1, length, dtype=torch.long)
    whole = base(
        input_ids=result.sequences,
        pixel_values=prompt["pixel_values"],
        attention_mask=torch.cat([prompt["attention_mask"], ones], 1),
        token_type_ids=torch.cat([prompt["token_type_ids"], ones], 1),
    ).logits
    for step, logits in enumerate(result.logits):
        position = prompt["input_ids"].shape[1] - 1 + step
        assert torch.allclose(logits[0], whole[0, position], atol=1e-3)
