from collections.abc import Callable

import pytest
import torch
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.data.batches.collator import Collator
from finetune.example import Example, Prompts
from finetune.generation.generate import generate_answers
from finetune.generation.options import EvaluationConfig
from finetune.model.load import load_config, load_model
from finetune.tasks.task import Answer
from tests.conftest import labelled_inputs, plain_inputs

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
        batch = collator.build_prompts(part)
        options = EvaluationConfig(max_new_tokens=12, num_beams=beams)
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
    prompt = collator.build_prompts(examples)
    options = EvaluationConfig(max_new_tokens=12, num_beams=beams)
    answers = generate_answers(base, prompt, processor.tokenizer, options)
    for example, answer in zip(examples, answers, strict=True):
        assert "<eos>" not in answer.text
        assert "<pad>" not in answer.text
        spoken = Example(example.id, example.images, example.prefix, (answer.text,))
        batch = labelled_inputs(collator([spoken]))
        labels = batch.pop("labels")
        probabilities = base(**batch).logits.softmax(-1)[0, :-1]
        kept = labels[0, 1:] != -100
        chosen = probabilities[kept].gather(1, labels[0, 1:][kept][:, None])[:, 0]
        # An answer cut at max_new_tokens has no EOS of its own.
        own = chosen[:-1] if answer.unfinished else chosen
        assert answer.confidence == pytest.approx(own.mean().item(), abs=1e-4)


def search_one_by_one(
    model: PaliGemmaForConditionalGeneration,
    prompt: Prompts,
    eos: int,
    beams: int,
    steps: int,
) -> tuple[list[int], list[float]]:
    """big_vision's beam search over one prompt, as plainly as it can be written, without a cache."""
    live: list[tuple[float, list[int], list[float]]] = [(0.0, [], [])]
    best: tuple[float, list[int], list[float]] = (-float("inf"), [], [])
    for _ in range(steps):
        grown = []
        for score, ids, chances in live:
            suffix = torch.tensor([ids], dtype=torch.long)
            logits = model(
                input_ids=torch.cat([prompt["input_ids"], suffix], 1),
                attention_mask=torch.cat([prompt["attention_mask"], torch.ones_like(suffix)], 1),
                token_type_ids=torch.cat([prompt["token_type_ids"], torch.ones_like(suffix)], 1),
                pixel_values=plain_inputs(prompt)["pixel_values"],
            ).logits[0, -1]
            scores = logits.log_softmax(-1).tolist()
            ended = (score + scores[eos], [*ids, eos], [*chances, scores[eos]])
            best = max(best, ended, key=lambda hypothesis: hypothesis[0])
            grown += [
                (score + value, [*ids, token], [*chances, value])
                for token, value in enumerate(scores)
                if token != eos
            ]
        live = sorted(grown, key=lambda hypothesis: -hypothesis[0])[:beams]
    return best[1], best[2]


@pytest.mark.parametrize("beams", [2, 3])
@pytest.mark.parametrize("text", ["gemma", "gemma2"])
@torch.no_grad()
def test_beam_search_is_big_visions_and_returns_what_ended(
    random_model: Callable[..., PaliGemmaForConditionalGeneration],
    processor: PaliGemmaProcessor,
    examples: list[Example],
    beams: int,
    text: str,
) -> None:
    """In a random model EOS is as unlikely as any other token: transformers returns what was cut."""
    model = random_model(text, num_layers=1, hidden_size=64).eval()
    collator = Collator(processor)
    batch = collator.build_prompts(examples)
    eos = processor.tokenizer.eos_token_id
    options = {"do_sample": False, "num_beams": beams, "length_penalty": 0.0, "max_new_tokens": 4}
    cut = model.generate(**plain_inputs(batch), **options, eos_token_id=eos, pad_token_id=0)
    assert not (cut[:, batch["input_ids"].shape[1] :] == eos).any()
    answers = generate_answers(
        model, batch, processor.tokenizer, EvaluationConfig(max_new_tokens=4, num_beams=beams)
    )
    for example, answer in zip(examples, answers, strict=True):
        prompt = collator.build_prompts([example])
        ids, chances = search_one_by_one(model, prompt, eos, beams, steps=4)
        assert not answer.unfinished
        assert answer.text == processor.tokenizer.decode(ids[:-1])
        mean = torch.tensor(chances).exp().mean().item()
        assert answer.confidence == pytest.approx(mean, rel=1e-3)


@pytest.mark.parametrize("beams", [2, 3])
@torch.no_grad()
def test_beam_search_is_never_less_likely_than_what_transformers_ends_with(
    base: PaliGemmaForConditionalGeneration,
    processor: PaliGemmaProcessor,
    make_example: MakeExample,
    beams: int,
) -> None:
    """Mostly the two are one. transformers drops an end that is not among the best continuations."""
    collator, tokenizer = Collator(processor), processor.tokenizer
    examples = [
        make_example(prefix=prefix, seed=seed) for prefix in ("caption en", "ocr") for seed in range(4)
    ]
    batch = collator.build_prompts(examples)
    answers = generate_answers(base, batch, tokenizer, EvaluationConfig(max_new_tokens=24, num_beams=beams))
    options = {"do_sample": False, "num_beams": beams, "length_penalty": 0.0, "max_new_tokens": 24}
    found = base.generate(**plain_inputs(batch), **options, pad_token_id=tokenizer.pad_token_id)

    def likelihood(example: Example, answer: str) -> float:
        spoken = labelled_inputs(collator([Example(example.id, example.images, example.prefix, (answer,))]))
        labels = spoken.pop("labels")[:, 1:]
        kept = labels[0] != -100
        scores = base(**spoken).logits.log_softmax(-1)[0, :-1][kept]
        return float(scores.gather(1, labels[0, kept][:, None]).sum())

    equal = ended = 0
    for example, ids, answer in zip(examples, found, answers, strict=True):
        assert not answer.unfinished
        text, end, _ = tokenizer.decode(ids[batch["input_ids"].shape[1] :]).partition("<eos>")
        ended += bool(end)
        equal += bool(end) and answer.text == text
        if end and answer.text != text:
            assert likelihood(example, answer.text) > likelihood(example, text)
    assert equal >= ended - 2 >= 3


def test_an_answer_that_was_cut_says_so(
    base: PaliGemmaForConditionalGeneration, processor: PaliGemmaProcessor, examples: list[Example]
) -> None:
    collator = Collator(processor)
    batch = collator.build_prompts(examples[:1])
    whole, cut = (
        generate_answers(base, batch, processor.tokenizer, EvaluationConfig(max_new_tokens=most))[0]
        for most in (60, 2)
    )
    assert (whole.unfinished, cut.unfinished) == (False, True)
    assert whole.text.startswith(cut.text)
    assert len(whole.text) > len(cut.text)


def test_the_logits_of_training_and_of_generation_agree(
    base: PaliGemmaForConditionalGeneration, processor: PaliGemmaProcessor, examples: list[Example]
) -> None:
    collator = Collator(processor)
    prompt = collator.build_prompts(examples[:1])
    result = base.generate(
        **plain_inputs(prompt),
        max_new_tokens=4,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    length = result.sequences.shape[1] - prompt["input_ids"].shape[1]
    ones = torch.ones(1, length, dtype=torch.long)
    whole = base(
        input_ids=result.sequences,
        pixel_values=plain_inputs(prompt)["pixel_values"],
        attention_mask=torch.cat([prompt["attention_mask"], ones], 1),
        token_type_ids=torch.cat([prompt["token_type_ids"], ones], 1),
    ).logits
    for step, logits in enumerate(result.logits):
        position = prompt["input_ids"].shape[1] - 1 + step
        assert torch.allclose(logits[0], whole[0, position], atol=1e-3)
