import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.codecs.boxes import decode_boxes, encode_boxes

SIZE = (480, 640)
BOX = "<loc0100><loc0200><loc0300><loc0400>"
OTHER = "<loc0001><loc0002><loc0003><loc0004>"
SEGS = "".join(f"<seg{code:03d}>" for code in range(16))

# The reader must not depend on the writer: an expression of its own.
WRITTEN = re.compile(r"<loc(\d{4})><loc(\d{4})><loc(\d{4})><loc(\d{4})> (class \d+)")


def test_fourteen_thousand_boxes_come_back_within_one_bin() -> None:
    generator = np.random.default_rng(0)
    total = 0
    for _ in range(1000):
        height, width = generator.integers(16, 2000, 2).tolist()
        corners = np.sort(generator.random((14, 2, 2)) * (width, height), axis=1)
        boxes = corners.reshape(14, 4)
        labels = [f"class {number}" for number in generator.integers(0, 80, 14)]
        text = encode_boxes(boxes, labels, (height, width))

        written = [WRITTEN.fullmatch(part) for part in text.split(" ; ")]
        assert [match[5] for match in written if match] == labels
        bins = np.array([[int(match[place]) for place in (2, 1, 4, 3)] for match in written if match])
        exact = boxes / (width, height, width, height) * 1023
        assert np.abs(bins - exact).max() <= 0.5 + 1e-9

        reading = decode_boxes(text, (height, width))
        assert reading.leftovers == []
        assert [found.label for found in reading.objects] == labels
        error = np.abs(np.array([found.box_xyxy for found in reading.objects]) - boxes)
        assert (error <= np.array([width, height, width, height]) / 1023).all()
        total += len(reading.objects)
    assert total == 14_000


bins = st.integers(0, 1023)
sides = st.integers(1, 5000)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).map(
    lambda word: re.sub(r"<(loc|seg)|;|\n|<(bos|eos|pad)>", "", word).strip()
)


@given(st.lists(st.tuples(bins, bins, bins, bins, words), max_size=5), st.tuples(sides, sides))
@settings(max_examples=200, deadline=None)
def test_canonical_text_is_written_again_as_it_was(
    rows: list[tuple[int, int, int, int, str]], size: tuple[int, int]
) -> None:
    objects = []
    for y_0, x_0, y_1, x_1, label in rows:
        if y_0 != y_1 and x_0 != x_1 and not re.search("<loc|<seg|<bos>|<eos>|<pad>", label):
            edges = (*map(min, (y_0, x_0), (y_1, x_1)), *map(max, (y_0, x_0), (y_1, x_1)))
            objects.append("".join(f"<loc{edge:04d}>" for edge in edges) + f" {label}".rstrip())
    text = " ; ".join(objects)
    reading = decode_boxes(text, size)
    assert reading.leftovers == []
    boxes = np.array([found.box_xyxy for found in reading.objects]).reshape(-1, 4)
    assert encode_boxes(boxes, [found.label for found in reading.objects], size) == text


fragments = st.sampled_from(
    [
        BOX,
        OTHER,
        SEGS,
        *"<loc0007> <loc9999> <loc <loc12 <seg003> <seg cat 猫's ; <eos> < > 9".split(),
        " ",
        "\n",
    ]
)


@given(st.lists(fragments | st.text(max_size=4), max_size=12).map("".join))
@settings(max_examples=500, deadline=None)
def test_every_location_token_of_any_text_is_read_or_left_over(text: str) -> None:
    height, width = SIZE
    reading = decode_boxes(text, SIZE)
    for found in reading.objects:
        x_min, y_min, x_max, y_max = found.box_xyxy
        assert 0 <= x_min <= x_max <= width
        assert 0 <= y_min <= y_max <= height
        assert "<loc" not in found.label
        assert "<seg" not in found.label
    left = sum(leftover.text.count("<loc") for leftover in reading.leftovers)
    assert 4 * len(reading.objects) + left == text.count("<loc")
    assert all(leftover.text.strip() and leftover.reason for leftover in reading.leftovers)


def find_parity_data() -> Path:
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(os.environ.get("FINETUNE_PARITY_DATA", beside))


# What the other reader makes of these texts is not what they say; ours, with the same divisor:
READ_OTHERWISE = {
    # It needs a label, though referring expressions are answered without.
    "<loc0256><loc0256><loc0768><loc0768>": [("", [250.0, 250.0, 750.0, 750.0])],
    # It needs a space before the label.
    "<loc0100><loc0100><loc0200><loc0200>cat": [("cat", [97.65625, 97.65625, 195.3125, 195.3125])],
    # Its labels end at an apostrophe.
    "<loc0100><loc0100><loc0200><loc0200> person's hat": [
        ("person's hat", [97.65625, 97.65625, 195.3125, 195.3125])
    ],
    # It gives a box whose maximum is before its minimum.
    "<loc0500><loc0500><loc0100><loc0100> cat": [("cat", [97.65625, 97.65625, 488.28125, 488.28125])],
    # It takes <loc1024>, which is no token, and gives an inverted box.
    "<loc1024><loc0000><loc0001><loc0002> cat": [],
}


@pytest.mark.parity
def test_answers_are_read_as_by_supervision() -> None:
    path = find_parity_data() / "paligemma_parse" / "supervision_from_paligemma_cases.json"
    if not path.is_file():
        pytest.skip(f"no {path}; set FINETUNE_PARITY_DATA")
    cases: list[dict[str, Any]] = json.loads(path.read_text())["cases"]
    assert len(cases) == 26
    otherwise = set()
    for case in cases:
        text, (width, height) = case["text"], case["resolution_wh"]
        if case["error"]:
            with pytest.raises(ValueError, match="Expected `size`"):
                decode_boxes(text, (height, width), divisor=1024)
            continue
        objects = decode_boxes(text, (height, width), divisor=1024).objects
        if case["classes"] is not None:  # it drops other labels as it reads; here that is the caller's
            objects = [found for found in objects if found.label in case["classes"]]
        expected = list(zip(case["class_name"] or [], case["xyxy"], strict=True))
        if text in READ_OTHERWISE:
            otherwise.add(text)
            assert READ_OTHERWISE[text] != expected
            expected = READ_OTHERWISE[text]
        assert [found.label for found in objects] == [label for label, _ in expected], text
        for found, (_, box) in zip(objects, expected, strict=True):
            assert found.box_xyxy == pytest.approx(box, abs=1e-6), text
    assert otherwise == set(READ_OTHERWISE)
