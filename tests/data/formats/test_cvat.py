from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset

from finetune.codecs.rle import decode_rle
from finetune.data.rows import Splits
from finetune.errors import UserError

GOOD = '<box label="cat" xtl="2" ytl="1" xbr="8" ybr="5"/>'


def write(folder: Path, *shapes: str, image: str = 'name="a.png" width="20" height="10"') -> Path:
    file = folder / "annotations.xml"
    file.write_text(f'<annotations><image id="0" {image}>{"".join(shapes)}</image></annotations>')
    return file


@pytest.fixture
def folder(pictures: Callable[..., Path]) -> Path:
    pictures("images/a.png")
    return pictures("images/a.png")


def test_a_turned_box_becomes_the_box_around_it(folder: Path, load: Callable[..., Splits]) -> None:
    turned = '<box label="cat" xtl="4" ytl="4" xbr="12" ybr="6" rotation="90"/>'
    (found,) = load("cvat", write(folder, turned)).train[0]["objects"]
    assert found["box_xyxy"] == pytest.approx([7, 1, 9, 9])
    assert found["mask_rle"] is None


def test_an_ellipse_has_a_mask(folder: Path, load: Callable[..., Splits]) -> None:
    shape = '<ellipse label="cat" cx="10" cy="5" rx="8" ry="4"/>'
    (found,) = load("cvat", write(folder, shape)).train[0]["objects"]
    assert found["box_xyxy"] == pytest.approx([2, 1, 18, 9])
    assert decode_rle(found["mask_rle"], (10, 20)).sum() == pytest.approx(3.14 * 32, rel=0.1)


def test_a_mask_is_written_row_by_row_in_its_box(folder: Path, load: Callable[..., Splits]) -> None:
    shape = '<mask label="cat" rle="1, 3, 2" left="4" top="2" width="3" height="2"/>'
    (found,) = load("cvat", write(folder, shape)).train[0]["objects"]
    mask = decode_rle(found["mask_rle"], (10, 20))
    assert sorted(zip(*mask.nonzero(), strict=True)) == [(2, 5), (2, 6), (3, 4)]


def test_points_and_tags_are_counted_and_ignored(
    folder: Path,
    load: Callable[..., Splits],
    reported: Callable[[], str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "finetune")
    shapes = (GOOD, '<points label="cat" points="1,2"/>', '<tag label="sunny"/>')
    assert len(load("cvat", write(folder, *shapes)).train[0]["objects"]) == 1
    assert "annotations <points> are not boxes or masks and were ignored: 1" in reported()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        pytest.param('<box label="cat" xtl="2" ytl="1" xbr="8"/>', "expected a number `ybr`", id="missing"),
        pytest.param(
            '<box label="cat" xtl="x" ytl="1" xbr="8" ybr="5"/>', "a number `xtl`, got 'x'", id="text"
        ),
        pytest.param('<box xtl="2" ytl="1" xbr="8" ybr="5"/>', "its label has the name ''", id="no label"),
        pytest.param('<box label="cat" xtl="8" ytl="1" xbr="2" ybr="5"/>', "is it inverted", id="inverted"),
        pytest.param('<box label="cat" xtl="30" ytl="1" xbr="40" ybr="5"/>', "to lie inside", id="outside"),
        pytest.param(
            '<polygon label="cat" points="1,2;3"/>', "expected points `x,y;x,y", id="half a point"
        ),
        pytest.param('<polygon label="cat" points=""/>', "expected points", id="no points"),
        pytest.param(
            '<mask label="cat" rle="1,1" left="4" top="2" width="3" height="2"/>',
            "must fill 3 x 2",
            id="runs",
        ),
        pytest.param(
            '<mask label="cat" rle="6" left="18" top="2" width="3" height="2"/>',
            "is outside the image",
            id="box",
        ),
        pytest.param(
            '<mask label="cat" rle="a" left="1" top="2" width="3" height="2"/>',
            "whole numbers",
            id="no runs",
        ),
    ],
)
def test_a_bad_shape_is_named_or_left_out(
    folder: Path, load_with_fault: Callable[..., Dataset], bad: str, message: str
) -> None:
    rows = load_with_fault("cvat", write(folder, GOOD, bad), message)
    assert len(rows[0]["objects"]) == 1


def test_a_bad_image_is_named(folder: Path, load: Callable[..., Splits]) -> None:
    with pytest.raises(UserError, match="image 0 `b.png`: no image `b.png`"):
        load("cvat", write(folder, GOOD, image='name="b.png" width="20" height="10"'))
    with pytest.raises(UserError, match="image 0 `a.png`: expected an image of 30 x 10 pixels"):
        load("cvat", write(folder, GOOD, image='name="a.png" width="30" height="10"'))


def test_tracks_of_a_video_are_refused(folder: Path, load: Callable[..., Splits]) -> None:
    file = folder / "annotations.xml"
    file.write_text('<annotations><track id="0" label="cat"></track></annotations>')
    with pytest.raises(UserError, match="tracks of a video"):
        load("cvat", file)


def test_a_folder_without_its_file_says_what_it_holds(folder: Path, load: Callable[..., Splits]) -> None:
    with pytest.raises(UserError, match=r"without CVAT's annotations.xml. It holds: images"):
        load("cvat", folder)
