import re
from collections.abc import Iterator
from itertools import combinations_with_replacement, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.example import AnswerForm
from finetune.generation.automaton import Automaton
from finetune.generation.spelling import Alphabet

END = 0
PIECES = [
    b" ", b"a", b"b", b";", b" a", b"ab", b" ;", b" ; ", b" ab", b"b ;", b"; ", b"y", b"n", b"1", b"2",
    b"12", b".", b"-", b"%", b"a",
]  # fmt: skip
"""Small enough that every answer can be listed; the last piece is another token for the same text."""
PIECE = dict(enumerate(PIECES, 100))
LOCATIONS, CODES = [11, 12], [13, 14]


def alphabet() -> Alphabet:
    pieces: dict[bytes, list[int]] = {}
    for token, text in PIECE.items():
        pieces.setdefault(text, []).append(token)
    return Alphabet(pieces, LOCATIONS, CODES, END)


ALPHABET = alphabet()
LABELS = (" a", " ab", " a b")
FORMS = {
    "objects": AnswerForm(LABELS, box=True),
    "one_class": AnswerForm((" a",), box=True),
    "no_label": AnswerForm(("",), box=True),
    "no_class": AnswerForm((), box=True),
    "choices": AnswerForm(("a", "ab", "a b", "")),
    "number": AnswerForm(number=True),
}
BOXES = [
    (y_min, x_min, y_max, x_max)
    for (y_min, y_max), (x_min, x_max) in product(combinations_with_replacement((0, 1), 2), repeat=2)
]


def is_valid(form: AnswerForm, tokens: list[int]) -> bool:
    """Whether tokens without EOS are an answer of a form, read plainly from its text."""
    if not form.box:
        text = b"".join(PIECE.get(token, b"?") for token in tokens).decode()
        if form.number:
            return re.fullmatch(r"-?\d{1,15}(\.\d{1,15})?%?", text) is not None
        return text in form.texts
    text = "".join(f"L{token - 11}" if token < 13 else PIECE.get(token, b"?").decode() for token in tokens)
    if not text:
        return True
    seen = set()
    for part in text.split(" ; "):
        match = re.fullmatch(r"L(\d)L(\d)L(\d)L(\d)([^L]*)", part)
        if match is None or match[5] not in form.texts:
            return False
        bins = tuple(int(bin_) for bin_ in match.groups()[:4])
        if bins not in BOXES or (bins, match[5]) in seen:
            return False
        seen.add((bins, match[5]))
    return True


def write(form: AnswerForm, draws: Iterator[int], steps: int) -> list[int] | None:
    """Write an answer of allowed tokens, each one drawn; None if there came no EOS."""
    automaton = Automaton(form, ALPHABET)
    state = automaton.start
    tokens: list[int] = []
    for left in range(steps, 0, -1):
        allowed = automaton.allowed(state, left).tolist()
        assert allowed, (tokens, left)
        assert len(set(allowed)) == len(allowed)
        token = allowed[next(draws) % len(allowed)]
        if token == END:
            return tokens
        tokens.append(token)
        following = automaton.advance(state, token)
        assert following is not None
        state = following
    return None


@pytest.mark.parametrize("name", FORMS)
@given(steps=st.integers(2, 200), seed=st.integers(0, 10_000))
def test_every_allowed_answer_is_valid_and_ends_within_its_tokens(name: str, steps: int, seed: int) -> None:
    draws = iter(np.random.default_rng(seed).integers(0, 1_000_000, steps).tolist())
    tokens = write(FORMS[name], draws, steps)
    assert tokens is not None
    assert is_valid(FORMS[name], tokens)


@pytest.mark.parametrize("name", FORMS)
@given(data=st.data())
def test_every_valid_answer_is_allowed_in_exactly_its_tokens(name: str, data: st.DataObject) -> None:
    form = FORMS[name]
    tokens = data.draw(valid_answers(form))
    assert is_valid(form, tokens)
    spare = data.draw(st.integers(0, 3))
    assert is_allowed(form, tokens, len(tokens) + 1 + spare)


@st.composite
def spellings(draw: st.DrawFn, text: bytes) -> list[int]:
    """Any tokens that stand for a text."""
    tokens = []
    while text:
        token = draw(st.sampled_from([token for token, piece in PIECE.items() if text.startswith(piece)]))
        tokens.append(token)
        text = text[len(PIECE[token]) :]
    return tokens


@st.composite
def valid_answers(draw: st.DrawFn, form: AnswerForm) -> list[int]:
    if form.number:
        return draw(spellings(draw(st.from_regex(r"\A-?[12]{1,15}(\.[12]{1,15})?%?\Z")).encode()))
    if not form.box:
        return draw(spellings(draw(st.sampled_from(form.texts)).encode()))
    objects = draw(st.permutations(list(product(BOXES, form.texts))))[: draw(st.integers(0, 30))]
    tokens: list[int] = []
    for number, (bins, text) in enumerate(objects):
        follows = " ; " if number + 1 < len(objects) else ""
        tokens += [LOCATIONS[bin_] for bin_ in bins] + draw(spellings((text + follows).encode()))
    return tokens


def is_allowed(form: AnswerForm, tokens: list[int], steps: int) -> bool:
    automaton = Automaton(form, ALPHABET)
    state = automaton.start
    for place, token in enumerate([*tokens, END]):
        if token not in automaton.allowed(state, steps - place).tolist():
            return False
        following = automaton.advance(state, token)
        assert following is not None
        state = following
    return True


@pytest.mark.parametrize("name", FORMS)
@given(tokens=st.lists(st.sampled_from([*PIECE, *LOCATIONS, *CODES]), max_size=12))
def test_what_is_not_valid_is_not_allowed(name: str, tokens: list[int]) -> None:
    assert is_allowed(FORMS[name], tokens, 50) == is_valid(FORMS[name], tokens)


def test_all_objects_are_written_once_and_then_the_answer_ends() -> None:
    """A model that never wants to end: nine boxes of three classes."""
    automaton = Automaton(FORMS["objects"], ALPHABET)
    state = automaton.start
    tokens: list[int] = []
    for left in range(10_000, 0, -1):
        wanted = [token for token in automaton.allowed(state, left).tolist() if token != END]
        if not wanted:
            break
        tokens.append(wanted[0])
        following = automaton.advance(state, wanted[0])
        assert following is not None
        state = following
    assert is_valid(FORMS["objects"], tokens)
    assert tokens.count(11) + tokens.count(12) == 4 * 27


def test_masks_are_sixteen_codes_between_box_and_class() -> None:
    form = AnswerForm((" a",), box=True, mask=True)
    answer = [11, 11, 12, 12, *[13] * 16, 104]
    assert is_allowed(form, answer, 22)
    assert not is_allowed(form, answer, 21)
    assert not is_allowed(form, [11, 11, 12, 12, *[13] * 15, 104], 50)
    assert not is_allowed(form, [11, 11, 12, 12, *[13] * 17, 104], 50)
