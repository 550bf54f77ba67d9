import re

import numpy as np
import pytest

from finetune.codecs.boxes import Leftover, check_boxes, decode_boxes, decode_official, encode_boxes

SIZE = (480, 640)
BOX = "<loc0100><loc0200><loc0300><loc0400>"
BOX_XYXY = (200 / 1023 * 640, 100 / 1023 * 480, 400 / 1023 * 640, 300 / 1023 * 480)
OTHER = "<loc0001><loc0002><loc0003><loc0004>"
CODES = tuple(range(0, 128, 8))
SEGS = "".join(f"<seg{code:03d}>" for code in CODES)


def encode_one(box: list[float], label: str = "cat", size: tuple[int, int] = SIZE) -> str:
    return encode_boxes(np.array([box]), [label], size)


def test_encode_writes_y_before_x() -> None:
    assert encode_one([64, 96, 320, 480]) == "<loc0205><loc0102><loc1023><loc0512> cat"


def test_encode_parts_objects_by_a_semicolon_between_spaces() -> None:
    boxes = np.array([[0, 0, 640, 480], [320, 240, 640, 480]])
    assert encode_boxes(boxes, ["a cat", "dog"], SIZE) == (
        "<loc0000><loc0000><loc1023><loc1023> a cat ; <loc0512><loc0512><loc1023><loc1023> dog"
    )


def test_encode_of_nothing_is_empty() -> None:
    assert encode_boxes(np.zeros((0, 4)), [], SIZE) == ""


def test_encode_leaves_an_empty_label_out() -> None:
    assert encode_one([0, 0, 640, 480], "") == "<loc0000><loc0000><loc1023><loc1023>"


def test_encode_writes_codes_between_box_and_label() -> None:
    text = encode_boxes(np.array([[0.0, 0, 640, 480]] * 2), ["cat", ""], SIZE, [CODES, CODES])
    location = "<loc0000><loc0000><loc1023><loc1023>"
    assert text == f"{location}{SEGS} cat ; {location}{SEGS}"


@pytest.mark.parametrize(
    ("edge", "token"),
    [
        pytest.param(0.5, "<loc0000>", id="half to even zero"),
        pytest.param(1.5, "<loc0002>", id="half to even two"),
        pytest.param(2.5, "<loc0002>", id="half down to two"),
        pytest.param(-0.9, "<loc0000>", id="clipped at zero"),
    ],
)
def test_encode_rounds_halves_to_even_and_clips(edge: float, token: str) -> None:
    # Width and height of 1023 make a pixel a bin.
    text = encode_one([edge, 5, 1023.9, 9], size=(1023, 1023))
    assert text == f"<loc0005>{token}<loc0009><loc1023> cat"


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        pytest.param([1, np.nan, 3, 4], "to be finite", id="nan"),
        pytest.param([1, 2, np.inf, 4], "to be finite", id="infinite"),
        pytest.param([30, 2, 10, 4], "to be x_min, y_min, x_max, y_max", id="inverted x"),
        pytest.param([10, 20, 30, 4], "to be x_min, y_min, x_max, y_max", id="inverted y"),
        pytest.param([10, 2, 10, 4], "to have an area", id="empty"),
        pytest.param([-1.5, 2, 10, 4], "to lie inside the picture, 640 wide and 480 high", id="left"),
        pytest.param([1, -2, 10, 4], "to lie inside the picture, 640 wide and 480 high", id="above"),
        pytest.param([1, 2, 642, 4], "to lie inside the picture, 640 wide and 480 high", id="right"),
        pytest.param([1, 2, 10, 482], "to lie inside the picture, 640 wide and 480 high", id="below"),
        pytest.param([640.2, 2, 640.8, 4], "to lie inside the picture", id="only in the right margin"),
        pytest.param([2, -0.8, 4, -0.2], "to lie inside the picture", id="only in the upper margin"),
        pytest.param([-0.8, 2, -0.2, 4], "to lie inside the picture", id="only in the left margin"),
        pytest.param([2, 480.2, 4, 480.8], "to lie inside the picture", id="only in the lower margin"),
    ],
)
def test_a_box_that_cannot_be_meant_is_named(box: list[float], expected: str) -> None:
    boxes = np.array([[0, 0, 640, 480], box], dtype=float)
    with pytest.raises(ValueError, match=r"^Expected") as error:
        encode_boxes(boxes, ["cat", "dog"], SIZE)
    assert str(error.value).startswith(f"Expected row 1 of `boxes_xyxy` {expected}")
    assert str(error.value).endswith(f"but got {boxes[1].tolist()}.")


def test_a_margin_of_nought_refuses_what_rounding_leaves_outside() -> None:
    boxes = np.array([[0, 0, 640.4, 480]])
    check_boxes(boxes, SIZE)
    with pytest.raises(ValueError, match=r"^Expected row 0 .* inside the picture"):
        check_boxes(boxes, SIZE, margin=0)


@pytest.mark.parametrize(
    ("boxes", "labels", "message"),
    [
        pytest.param(
            [[1, 2, 3, 4]],
            ["cat", "dog"],
            "Expected `boxes_xyxy` to be (2, 4), one row per label, but got (1, 4).",
            id="too few boxes",
        ),
        pytest.param(
            [[1, 2, 3]],
            ["cat"],
            "Expected `boxes_xyxy` to be (1, 4), one row per label, but got (1, 3).",
            id="three columns",
        ),
        pytest.param(
            [[1, 2, 3, 4]],
            ["cat;dog"],
            "Expected row 0 of `labels` to be without ';', but got 'cat;dog'.",
            id="separator in a label",
        ),
        pytest.param(
            [[1, 2, 3, 4]],
            ["a <loc0001>"],
            "Expected row 0 of `labels` to be without '<loc', but got 'a <loc0001>'.",
            id="token in a label",
        ),
        pytest.param(
            [[1, 2, 3, 4]],
            ["a\ncat"],
            "Expected row 0 of `labels` to be without '\\n', but got 'a\\ncat'.",
            id="newline in a label",
        ),
        pytest.param(
            [[1, 2, 3, 4]],
            [" cat"],
            "Expected row 0 of `labels` to be without outer spaces, but got ' cat'.",
            id="space before a label",
        ),
    ],
)
def test_encode_says_what_it_cannot_write(
    boxes: list[list[float]], labels: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=r"^Expected") as error:
        encode_boxes(np.array(boxes), labels, SIZE)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        pytest.param([], "Expected `codes` to have 1 rows, one per label, but got 0.", id="no rows"),
        pytest.param([[0] * 15], r"Expected row 0 of `codes` to be 16 numbers from 0 to 127", id="fifteen"),
        pytest.param([[128] + [0] * 15], r"Expected row 0 of `codes` to be 16 numbers", id="too large"),
    ],
)
def test_encode_refuses_other_codes(codes: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        encode_boxes(np.array([[1, 2, 3, 4]]), ["cat"], SIZE, codes)


@pytest.mark.parametrize("size", [pytest.param((0, 5), id="height"), pytest.param((5, -1), id="width")])
def test_a_size_without_area_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="Expected `size` to be a height and width above 0, but got"):
        decode_boxes(f"{BOX} cat", size)


def test_decode_divides_before_it_multiplies() -> None:
    # 143 * 93 / 1023 is 13; big_vision's order is a hair below, and its masks start at pixel 12.
    (found,) = decode_boxes("<loc0143><loc0143><loc0561><loc0561>", (93, 93)).objects
    assert [int(edge) for edge in found.box_xyxy] == [12, 12, 50, 50]


def test_decode_gives_label_and_pixels() -> None:
    reading = decode_boxes(f"{BOX} cat", SIZE)
    assert reading.leftovers == []
    assert [(found.label, found.box_xyxy) for found in reading.objects] == [("cat", BOX_XYXY)]


def test_decode_with_another_divisor() -> None:
    reading = decode_boxes("<loc0256><loc0512><loc0768><loc1023> cat", SIZE, divisor=1024)
    assert reading.objects[0].box_xyxy == (320, 120, 639.375, 360)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        pytest.param("", [], id="nothing"),
        pytest.param(" \n ", [], id="white space"),
        pytest.param(f"{BOX}", [""], id="no label"),
        pytest.param(f"{BOX}cat", ["cat"], id="no space before the label"),
        pytest.param(f"{BOX} person's hat", ["person's hat"], id="apostrophe"),
        pytest.param(f"{BOX} 猫 ; {BOX} кот ; {BOX} قطة", ["猫", "кот", "قطة"], id="any script"),
        pytest.param(f"{BOX} t-shirt (blue), no. 7", ["t-shirt (blue), no. 7"], id="marks"),
        pytest.param(f"{BOX} <noise>", ["<noise>"], id="noise class"),
        pytest.param(f"{BOX} cat;{BOX} dog", ["cat", "dog"], id="semicolon without spaces"),
        pytest.param(f"{BOX} cat\n{BOX} dog", ["cat", "dog"], id="lines"),
        pytest.param(f"{BOX} cat {BOX} dog", ["cat", "dog"], id="no separator"),
        pytest.param(f"{BOX} {BOX} dog", ["", "dog"], id="no label and no separator"),
        pytest.param(f"{BOX} cat ;", ["cat"], id="open end"),
        pytest.param(f" ; ; {BOX} cat", ["cat"], id="empty objects"),
        pytest.param(f"{BOX} cat ; {BOX} cat", ["cat", "cat"], id="the same twice"),
        pytest.param(BOX.replace("><", "> <") + " cat", ["cat"], id="spaces between tokens"),
        pytest.param(f"<bos>{BOX} cat<eos><pad><pad>", ["cat"], id="special tokens"),
        pytest.param(f"detect shoe\n{BOX} shoe", ["shoe"], id="prompt before"),
    ],
)
def test_decode_reads_without_complaint(text: str, labels: list[str]) -> None:
    reading = decode_boxes(text, SIZE)
    assert reading.leftovers == []
    assert [found.label for found in reading.objects] == labels
    assert all(found.box_xyxy == BOX_XYXY and not found.reordered for found in reading.objects)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("<loc0300><loc0200><loc0100><loc0400> cat", id="y"),
        pytest.param("<loc0100><loc0400><loc0300><loc0200> cat", id="x"),
        pytest.param("<loc0300><loc0400><loc0100><loc0200> cat", id="both"),
    ],
)
def test_decode_puts_exchanged_edges_right_and_says_so(text: str) -> None:
    (found,) = decode_boxes(text, SIZE).objects
    assert found.box_xyxy == BOX_XYXY
    assert found.reordered


def test_decode_keeps_a_box_without_area() -> None:
    (found,) = decode_boxes("<loc0000><loc0000><loc0000><loc1023> line", SIZE).objects
    assert found.box_xyxy == (0.0, 0.0, 640.0, 0.0)
    assert not found.reordered


THREE = "<loc0001><loc0002><loc0003>"


@pytest.mark.parametrize(
    ("text", "labels", "leftovers"),
    [
        pytest.param("a fox.", [], [("a fox.", "no location tokens")], id="prose"),
        pytest.param(
            f"{THREE} cat",
            [],
            [(f"{THREE} cat", "3 location tokens in a row, where 4 make a box")],
            id="three",
        ),
        pytest.param(
            f"{BOX}<loc0005> cat ; {BOX} dog",
            ["dog"],
            [(f"{BOX}<loc0005> cat", "5 location tokens in a row, where 4 make a box")],
            id="five",
        ),
        pytest.param(
            f"{BOX}{OTHER} cat",
            [],
            [(f"{BOX}{OTHER} cat", "8 location tokens in a row, where 4 make a box")],
            id="two groups as one",
        ),
        pytest.param(
            f"{BOX} cat ; {THREE}",
            ["cat"],
            [(THREE, "3 location tokens in a row, where 4 make a box")],
            id="cut off",
        ),
        pytest.param(
            f"{THREE}<loc00",
            [],
            [(f"{THREE}<loc00", "`<loc00` is not a location token: they are 0 to 1023")],
            id="cut within a token",
        ),
        pytest.param(
            f"{THREE}<loc1024> cat",
            [],
            [(f"{THREE}<loc1024> cat", "`<loc1024>` is not a location token: they are 0 to 1023")],
            id="1024",
        ),
        pytest.param(
            f"{THREE}<loc12> cat",
            [],
            [(f"{THREE}<loc12> cat", "`<loc12>` is not a location token: they are 0 to 1023")],
            id="two digits",
        ),
        pytest.param(f"cat {BOX} dog", ["dog"], [("cat", "no location tokens")], id="text before"),
        pytest.param(f"{BOX} cat ; dog", ["cat"], [("dog", "no location tokens")], id="object without box"),
        pytest.param(f"{BOX} cat\nthe end", ["cat"], [("the end", "no location tokens")], id="line behind"),
        pytest.param(
            SEGS, [], [(SEGS, "no location tokens before the segmentation tokens")], id="mask without box"
        ),
        pytest.param(
            f"{BOX} cat {SEGS}",
            ["cat"],
            [(SEGS, "segmentation tokens that do not follow the location tokens")],
            id="mask behind the label",
        ),
        pytest.param(
            f"{BOX}<seg001><seg002> cat",
            ["cat"],
            [("<seg001><seg002>", "2 segmentation tokens in a row, where 16 make a mask")],
            id="two codes",
        ),
        pytest.param(
            f"{BOX}{'<seg001>' * 15}<seg128> cat",
            ["cat"],
            [
                (
                    "<seg001>" * 15 + "<seg128>",
                    "`<seg128>` is not a segmentation token: they are 0 to 127",
                )
            ],
            id="code 128",
        ),
    ],
)
def test_decode_says_what_it_could_not_read(
    text: str, labels: list[str], leftovers: list[tuple[str, str]]
) -> None:
    reading = decode_boxes(text, SIZE)
    assert [found.label for found in reading.objects] == labels
    assert all(found.codes is None and found.box_xyxy == BOX_XYXY for found in reading.objects)
    assert reading.leftovers == [Leftover(*leftover) for leftover in leftovers]


@pytest.mark.parametrize(
    ("behind", "label"),
    [
        pytest.param("", "", id="no label"),
        pytest.param(" cat", "cat", id="label"),
        pytest.param("cat", "cat", id="label without a space"),
    ],
)
def test_decode_keeps_sixteen_codes(behind: str, label: str) -> None:
    reading = decode_boxes(f"{BOX}{SEGS}{behind} ; {BOX} dog", SIZE)
    assert reading.leftovers == []
    assert [(found.label, found.codes) for found in reading.objects] == [(label, CODES), ("dog", None)]


@pytest.mark.parametrize(
    "behind", ["", " cat", "<seg017>", f" ; {BOX}{SEGS}", "<loc0001>", "\n<eos>"], ids=repr
)
def test_the_official_reading_takes_the_first_twenty_tokens_and_nothing_else(behind: str) -> None:
    reading = decode_official(BOX + SEGS + behind, (1023, 1023))
    (found,) = reading.objects
    assert found.box_xyxy == pytest.approx((200, 100, 400, 300))
    assert (found.codes, found.label, found.span) == (CODES, "", (0, len(BOX + SEGS)))
    assert reading.leftovers == []


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param(BOX, id="no-codes"),
        pytest.param(BOX + SEGS[:-8], id="fifteen-codes"),
        pytest.param(BOX + SEGS[:-8] + "<loc0001>", id="another-token"),
        pytest.param(BOX[:-9] + SEGS + "<seg000>", id="three-locations"),
        pytest.param(BOX + "<loc0001>" + SEGS, id="five-locations"),
        pytest.param(f"<loc0300><loc0200><loc0100><loc0400>{SEGS}", id="exchanged-rows"),
        pytest.param(f"<loc0100><loc0400><loc0300><loc0200>{SEGS}", id="exchanged-columns"),
        pytest.param(f"<loc0100><loc0200><loc0100><loc0400>{SEGS}", id="no-height"),
        pytest.param(f"<loc0100><loc0200><loc0300><loc0200>{SEGS}", id="no-width"),
        pytest.param(" " + BOX + SEGS, id="a-space-before"),
        pytest.param(BOX + " " + SEGS, id="a-space-inside"),
        pytest.param(f"left dog\n{BOX}{SEGS}", id="the-prompt-before"),
        pytest.param(f"<loc1024>{BOX[9:]}{SEGS}", id="no-such-location"),
        pytest.param(BOX + SEGS[:-8] + "<seg128>", id="no-such-code"),
    ],
)
def test_the_official_reading_finds_nothing_in_any_other_answer(text: str) -> None:
    reading = decode_official(text, (10, 10))
    assert reading.objects == []
    assert reading.leftovers[0].text == text


def test_span_is_where_the_object_stands() -> None:
    text = f"detect cat ; dog\n{BOX} cat ; {OTHER}{SEGS}  dog {BOX} cat ;"
    spans = [found.span for found in decode_boxes(text, SIZE).objects]
    assert [text[slice(*span)] for span in spans] == [f"{BOX} cat", f"{OTHER}{SEGS}  dog", f"{BOX} cat"]
    assert spans == sorted(spans)
