from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.codecs.boxes import decode_boxes, encode_boxes
from finetune.data.batches.collator import Collator
from finetune.errors import UserError
from finetune.example import AnswerForm, Example
from finetune.generation.automaton import Automaton
from finetune.generation.generate import generate_answers
from finetune.generation.options import EvaluationConfig
from finetune.generation.spelling import Alphabet, read_alphabet
from finetune.model.load import load_config, load_model
from finetune.tasks.grammar import can_write
from finetune.tasks.task import Answer
from tests.conftest import labelled_inputs

MakeExample = Callable[..., Example]
LABELS = ("cat", "cat flap", "Cat", "größe 猫", "c")
BOXES = AnswerForm(tuple(f" {label}" for label in LABELS), box=True)
MASKS = AnswerForm((" cat", " dog"), box=True, mask=True)
FORMS = [
    BOXES,
    MASKS,
    AnswerForm(("",), box=True),
    AnswerForm(("A", "B", "B and C", "an answer with several words")),
    AnswerForm(("yes", "no", "Yes", "No")),
    AnswerForm(number=True),
]


@pytest.fixture(scope="module")
def base() -> PaliGemmaForConditionalGeneration:
    return load_model("tiny", load_config("tiny"), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def alphabet(processor: PaliGemmaProcessor) -> Alphabet:
    return read_alphabet(processor.tokenizer)


def is_allowed(form: AnswerForm, alphabet: Alphabet, tokens: Sequence[int]) -> bool:
    automaton = Automaton(form, alphabet)
    state = automaton.start
    for place, token in enumerate([*tokens, alphabet.end]):
        if token not in automaton.allowed(state, len(tokens) + 1 - place):
            return False
        following = automaton.advance(state, token)
        assert following is not None
        state = following
    return True


def draw_answer(form: AnswerForm, alphabet: Alphabet, steps: int, seed: int) -> list[int]:
    """Write random tokens, of those that are allowed."""
    automaton, draw = Automaton(form, alphabet), np.random.default_rng(seed)
    state = automaton.start
    tokens: list[int] = []
    while True:
        allowed = automaton.allowed(state, steps - len(tokens))
        token = int(draw.choice(allowed[allowed != alphabet.end] if len(allowed) > 1 else allowed))
        if token == alphabet.end:
            return tokens
        tokens.append(token)
        following = automaton.advance(state, token)
        assert following is not None
        state = following


def test_what_the_codec_writes_is_allowed_as_the_tokenizer_spells_it(
    processor: PaliGemmaProcessor, alphabet: Alphabet
) -> None:
    boxes = np.array([[number, 0, number + 1.5, 10] for number in range(len(LABELS))])
    codes = [list(range(16)) for _ in LABELS]
    for form, used in ((BOXES, None), (AnswerForm(BOXES.texts, box=True, mask=True), codes)):
        text = encode_boxes(boxes, LABELS, (10, 10), used)
        assert is_allowed(form, alphabet, processor.tokenizer(text, add_special_tokens=False).input_ids)
        twice = f"{text} ; {text}"
        assert not is_allowed(
            form, alphabet, processor.tokenizer(twice, add_special_tokens=False).input_ids
        )
    for text in ("7", "137", "-12.5", "50%"):
        ids = processor.tokenizer(text, add_special_tokens=False).input_ids
        assert is_allowed(AnswerForm(number=True), alphabet, ids)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_allowed_is_read_back_whole(
    processor: PaliGemmaProcessor, alphabet: Alphabet, form: AnswerForm, seed: int
) -> None:
    text = processor.tokenizer.decode(draw_answer(form, alphabet, 150, seed))
    assert can_write(form, text)
    if form.box:
        reading = decode_boxes(text, (1023, 1023))
        assert not reading.leftovers
        assert reading.objects
        assert {f" {one.label}".rstrip() for one in reading.objects} <= set(form.texts)
        assert all((one.codes is not None) == form.mask and not one.reordered for one in reading.objects)
        assert len({(one.box_xyxy, one.label) for one in reading.objects}) == len(reading.objects)


def answer(
    model: PaliGemmaForConditionalGeneration,
    processor: PaliGemmaProcessor,
    examples: list[Example],
    max_new_tokens: int,
    num_beams: int = 1,
) -> list[Answer]:
    prompts = Collator(processor).build_prompts(examples)
    options = EvaluationConfig(max_new_tokens=max_new_tokens, num_beams=num_beams)
    return generate_answers(model, prompts, processor.tokenizer, options)


def with_form(example: Example, form: AnswerForm) -> Example:
    return Example(example.id, example.images, example.prefix, (), form=form)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("text", ["gemma", "gemma2"])
def test_a_model_that_knows_nothing_gives_valid_answers_and_ends_them(
    random_model: Callable[..., PaliGemmaForConditionalGeneration],
    processor: PaliGemmaProcessor,
    make_example: MakeExample,
    beams: int,
    text: str,
) -> None:
    """Each row has another form, and answers as it does alone."""
    model = random_model(text, num_layers=1, hidden_size=64).eval()
    examples = [with_form(make_example(seed=seed), form) for seed, form in enumerate(FORMS)]
    answers = answer(model, processor, examples, max_new_tokens=50, num_beams=beams)
    for example, one in zip(examples, answers, strict=True):
        assert not one.unfinished
        assert example.form is not None
        assert can_write(example.form, one.text)
        [alone] = answer(model, processor, [example], max_new_tokens=50, num_beams=beams)
        assert alone.text == one.text
        assert alone.confidence == pytest.approx(one.confidence, abs=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_the_confidence_of_a_constrained_answer_is_the_probability_among_all_tokens(
    base: PaliGemmaForConditionalGeneration,
    processor: PaliGemmaProcessor,
    make_example: MakeExample,
    beams: int,
) -> None:
    form = AnswerForm(("B and C", "yes"))
    example = with_form(make_example(seed=1), form)
    [given] = answer(base, processor, [example], max_new_tokens=20, num_beams=beams)
    assert given.text in form.texts
    batch = labelled_inputs(
        Collator(processor)([Example("one", example.images, example.prefix, (given.text,))])
    )
    labels = batch.pop("labels")[0, 1:]
    with torch.no_grad():
        probabilities = base(**batch).logits.softmax(-1)[0, :-1][labels != -100]
    chosen = probabilities.gather(1, labels[labels != -100][:, None])
    assert given.confidence == pytest.approx(chosen.mean().item(), abs=1e-4)


def test_a_greedy_answer_that_is_valid_without_a_grammar_stays_as_it_is(
    base: PaliGemmaForConditionalGeneration, processor: PaliGemmaProcessor, make_example: MakeExample
) -> None:
    prefixes = ["caption en", "ocr", "answer en how many shapes are there?"]
    examples = [make_example(prefix=prefix, seed=seed) for seed, prefix in enumerate(prefixes)]
    free = answer(base, processor, examples, max_new_tokens=64)
    assert not any(one.unfinished for one in free)
    forms = [AnswerForm(("zzz", one.text, f"{one.text} more", one.text[:1])) for one in free]
    pairs = zip(examples, forms, strict=True)
    limited = answer(base, processor, [with_form(*pair) for pair in pairs], max_new_tokens=64)
    assert limited == free


def test_a_limit_below_the_shortest_answer_is_refused(
    base: PaliGemmaForConditionalGeneration, processor: PaliGemmaProcessor, make_example: MakeExample
) -> None:
    example = with_form(make_example(), AnswerForm(("several words that take more than a token",)))
    with pytest.raises(UserError, match="evaluation.max_new_tokens=2: "):
        answer(base, processor, [example], max_new_tokens=2)
