import weakref
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.data.batches.collator import Collator
from finetune.errors import UserError
from finetune.example import AnswerForm, Example, Prompts
from finetune.generation.answerer import Answerer
from finetune.generation.generate import answer_batches, generate_tokens
from finetune.generation.options import GenerationOptions
from finetune.generation.reading import Reading
from finetune.model.cache import RowCache
from finetune.model.decoder import Decoder
from finetune.model.features import encode_images
from finetune.model.forward import compute_losses, model_inputs
from finetune.tasks.task import Answer
from tests.conftest import noise_image

Build = Callable[..., PaliGemmaForConditionalGeneration]
STEPS = 20


@pytest.fixture(scope="module", params=["gemma", "gemma2"])
def model(random_model: Build, request: pytest.FixtureRequest) -> PaliGemmaForConditionalGeneration:
    """Attention has a say in it, answers end at different steps, and Gemma 2 sees its last tokens only."""
    built = random_model(request.param, num_layers=2, hidden_size=64).eval()
    for name, parameter in built.named_parameters():
        if "proj.weight" in name:
            parameter.data *= 3
    if request.param == "gemma2":
        text = built.config.text_config
        for layer in built.model.language_model.layers:
            if layer.self_attn.sliding_window is not None:
                layer.self_attn.sliding_window = 12
        text.sliding_window = 12
        text.final_logit_softcapping = 30.0
    return built


@pytest.fixture
def examples() -> list[Example]:
    prefixes = [
        "caption en",
        "how many circles are there in these two pictures?",
        "ocr",
        "detect",
        "a b c d e f",
    ]
    return [
        # One has two images.
        Example(
            str(number),
            tuple(noise_image(10 * number + one) for one in range(1 + (number == 1))),
            prefix,
            (),
        )
        for number, prefix in enumerate(prefixes)
    ]


def choose_end(tokens: Tensor) -> int:
    """A token that ends some answers early and others not at all."""
    counts = {
        token: sum(token in row[1:-2] for row in tokens.tolist())
        for token in set(tokens.flatten().tolist())
    }
    return min(counts, key=lambda token: abs(counts[token] - 2))


@torch.no_grad()
def reference(
    model: PaliGemmaForConditionalGeneration, prompts: Prompts, end: int
) -> tuple[list[list[int]], list[list[float]]]:
    """What transformers generates, up to and including the end."""
    output = model.generate(
        **model_inputs(model, prompts, encode_images(model, prompts)),
        max_new_tokens=STEPS,
        do_sample=False,
        eos_token_id=end,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    tokens = output.sequences[:, prompts["input_ids"].shape[1] :]
    chances = torch.stack([logits.softmax(-1) for logits in output.logits], 1).amax(-1)
    counts = [row.index(end) + 1 if end in row else len(row) for row in tokens.tolist()]
    return (
        [row[:count] for row, count in zip(tokens.tolist(), counts, strict=True)],
        [row[:count] for row, count in zip(chances.tolist(), counts, strict=True)],
    )


class Ending:
    """A tokenizer whose EOS is another token."""

    def __init__(self, end: int) -> None:
        self.eos_token_id, self.pad_token_id = end, 0


@pytest.mark.parametrize("at_once", [1, 3, None])
def test_greedy_tokens_and_probabilities_are_those_of_transformers(
    model: PaliGemmaForConditionalGeneration,
    processor: PaliGemmaProcessor,
    examples: list[Example],
    at_once: int | None,
) -> None:
    prompts = Collator(processor).build_prompts(examples)
    end = choose_end(torch.tensor(reference(model, prompts, end=-1)[0]))
    expected, chances = reference(model, prompts, end)
    assert len({len(row) for row in expected}) > 1
    options = GenerationOptions(max_new_tokens=STEPS, batch_size=at_once)
    tokens, probabilities = generate_tokens(model, prompts, Ending(end), options)
    for row, got, sure, wanted in zip(
        expected, tokens.tolist(), probabilities.tolist(), chances, strict=True
    ):
        assert got[: len(row)] == row
        assert set(got[len(row) :]) <= {0}
        assert sure[: len(row)] == pytest.approx(wanted, abs=2e-6)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("with_forms", [False, True])
def test_answers_do_not_depend_on_how_many_are_found_at_once(
    model: PaliGemmaForConditionalGeneration,
    processor: PaliGemmaProcessor,
    examples: list[Example],
    beams: int,
    with_forms: bool,
) -> None:
    forms = [AnswerForm(("yes", "perhaps", "B and C")), AnswerForm(number=True)] if with_forms else [None]
    examples = [
        Example(one.id, one.images, one.prefix, (), form=forms[number % len(forms)])
        for number, one in enumerate(examples)
    ]
    prompts = Collator(processor).build_prompts(examples)

    def answer(at_once: int | None) -> list[Answer]:
        options = GenerationOptions(max_new_tokens=12, num_beams=beams, batch_size=at_once)
        batches = [(prompts, None)]
        [(_, answers)] = answer_batches(model, batches, processor.tokenizer, options, nullcontext())
        return answers

    together = answer(None)
    for at_once in (1, 2):
        for one, alone in zip(together, answer(at_once), strict=True):
            assert one.text == alone.text
            assert one.confidence == pytest.approx(alone.confidence, abs=1e-5)


def test_batches_come_back_in_their_order(
    model: PaliGemmaForConditionalGeneration, processor: PaliGemmaProcessor, examples: list[Example]
) -> None:
    collator = Collator(processor)
    batches = [(collator.build_prompts([example]), example.id) for example in examples]
    options = GenerationOptions(max_new_tokens=6, batch_size=2)
    answered = list(answer_batches(model, batches, processor.tokenizer, options, nullcontext()))
    assert [rest for rest, _ in answered] == [example.id for example in examples]


def test_images_are_not_kept_once_all_that_is_asked_about_them_is_answered(
    model: PaliGemmaForConditionalGeneration, processor: PaliGemmaProcessor, examples: list[Example]
) -> None:
    options = GenerationOptions(max_new_tokens=2)
    answerer = Answerer(model, processor.tokenizer, options, nullcontext())
    reading = Reading(Collator(processor).build_prompts(examples), None, answerer.image_token)
    pixels = weakref.ref(reading.prompts["pixel_values"])
    with torch.no_grad():
        answerer.work(deque([reading]))
        assert pixels() is not None
        answerer.work(deque([reading]), finish=True)
    assert reading.is_answered
    assert pixels() is None


def test_the_same_prompt_is_read_once_and_an_image_encoded_once(
    model: PaliGemmaForConditionalGeneration,
    processor: PaliGemmaProcessor,
    examples: list[Example],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    again = [
        Example("again", examples[0].images, examples[0].prefix, ()),
        Example("asked otherwise", examples[0].images, "another prefix", ()),
        Example("of another", (noise_image(99),), examples[0].prefix, ()),
    ]
    read, encoded = [], []
    plain, tower = Decoder.read_prompts, model.model.vision_tower.forward

    def count(self: Decoder, tokens: Tensor, *rest: object) -> tuple[Tensor, RowCache]:
        read.append(len(tokens))
        return plain(self, tokens, *rest)  # type: ignore[arg-type]

    def look(pixels: Tensor, **rest: object) -> object:
        encoded.append(len(pixels))
        return tower(pixels, **rest)

    monkeypatch.setattr(Decoder, "read_prompts", count)
    monkeypatch.setattr(model.model.vision_tower, "forward", look)
    prompts = Collator(processor).build_prompts([*examples, *again])
    tokens, _ = generate_tokens(model, prompts, processor.tokenizer, GenerationOptions(max_new_tokens=4))
    assert (sum(read), sum(encoded)) == (7, 7)
    assert tokens[0].tolist() == tokens[5].tolist()


def test_the_loss_over_what_was_read_is_that_of_a_whole_forward_pass(
    model: PaliGemmaForConditionalGeneration, processor: PaliGemmaProcessor, examples: list[Example]
) -> None:
    collator = Collator(processor)
    texts = ["one", "three words here, and then some more of them", "", "two words", "d", "another caption"]
    spoken = [
        Example(str(number), examples[number % 5].images, examples[number % 5].prefix, (text,))
        for number, text in enumerate(texts)
    ]
    prompts = collator.build_prompts(spoken)
    prompts["suffixes"] = [collator.encode(example).suffixes[0] for example in spoken]
    options = GenerationOptions(max_new_tokens=2)
    [(_, answers)] = answer_batches(model, [(prompts, None)], processor.tokenizer, options, nullcontext())
    with torch.no_grad():
        expected = compute_losses(model, collator(spoken)).tolist()
    assert [answer.loss for answer in answers] == pytest.approx(expected, rel=2e-6)


def test_less_is_done_at_once_where_memory_is_short(
    model: PaliGemmaForConditionalGeneration,
    processor: PaliGemmaProcessor,
    examples: list[Example],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompts = Collator(processor).build_prompts(examples)
    options = GenerationOptions(max_new_tokens=8, batch_size=16)
    expected = generate_tokens(model, prompts, processor.tokenizer, options)[0]
    plain, limit, shrunk = Decoder.read_tokens, [2], list[int]()

    def fail(self: Decoder, tokens: Tensor, cache: RowCache) -> Tensor:
        if len(tokens) > limit[0]:
            raise torch.OutOfMemoryError
        return plain(self, tokens, cache)

    monkeypatch.setattr(Decoder, "read_tokens", fail)
    batches = [(prompts, None)]
    answered = answer_batches(model, batches, processor.tokenizer, options, nullcontext(), shrunk.append)
    [(_, answers)] = answered
    assert shrunk == [8, 4, 2]
    words = [processor.tokenizer.decode(row[row != 0]).removesuffix("<eos>") for row in expected]
    assert [answer.text for answer in answers] == words
    limit[0] = 0
    with pytest.raises(UserError, match="too little memory for a single prompt"):
        generate_tokens(model, prompts, processor.tokenizer, options)
