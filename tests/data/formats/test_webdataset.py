import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset
from PIL import Image

from finetune.data.examples.dataset import ExampleDataset
from finetune.data.formats.splits import expand_files
from finetune.data.rows import Splits
from finetune.errors import UserError
from finetune.tasks.text import TextTask


def picture(colour: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (20, 10), (colour, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


PAIR = json.dumps({"prefix": "caption en", "suffix": "red"}).encode()


def pack(file: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(file, mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file


def pairs(*keys: str) -> dict[str, bytes]:
    return {
        f"{key}.{end}": content for key in keys for end, content in (("png", picture()), ("json", PAIR))
    }


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_sample_is_a_row_with_its_picture_inside(
    tmp_path: Path, load: Callable[..., Splits], mode: str
) -> None:
    file = pack(tmp_path / "0.tar", {**pairs("d/a", "b"), "b.cls": b"3"}, mode)
    rows = load("webdataset", file).train
    assert rows["id"][:] == ["0/d/a", "0/b"]
    assert rows[0] == {
        "id": "0/d/a",
        "group": None,
        "image": {"bytes": picture(), "path": "d/a.png"},
        "prefix": "caption en",
        "suffixes": ["red"],
        "width": 20,
        "height": 10,
    }
    example = ExampleDataset(rows, TextTask("{prefix}", "suffixes"), "train")[0]
    assert (example.images[0].size, example.suffixes) == ((20, 10), ("red",))
    held = load("webdataset", file, validation=None, validation_fraction=0.5)
    assert (len(held.train), len(held.validation)) == (1, 1)


def test_captions_are_text_beside_whatever_json(tmp_path: Path, load: Callable[..., Splits]) -> None:
    members = {"a.jpg": picture(), "a.json": b'{"url": "x"}', "a.txt": "ein Kätzchen\n".encode()}
    row = load("webdataset", pack(tmp_path / "0.tar", members)).train[0]
    assert (row["id"], row["captions"]) == ("0/a", ["ein Kätzchen"])


def test_shards_are_named_by_numbers_or_a_pattern(tmp_path: Path, load: Callable[..., Splits]) -> None:
    for number in range(3):
        pack(tmp_path / f"{number:02d}.tar", pairs("a"))
    names = [str(tmp_path / f"{number:02d}.tar") for number in range(3)]
    assert list(expand_files(f"{tmp_path}/{{00..02}}.tar")) == names
    assert list(expand_files(f"{tmp_path}/*.tar")) == names
    splits = load("webdataset", f"{tmp_path}/{{00..01}}.tar", validation=f"{tmp_path}/02.tar")
    assert (splits.train["id"][:], splits.validation["id"][:]) == (["00/a", "01/a"], ["02/a"])
    for pattern in ("{02..03}.tar", "x*.tar"):
        with pytest.raises(UserError, match="No file "):
            expand_files(f"{tmp_path}/{pattern}")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        pytest.param({"b.json": PAIR}, "sample `b` has 0 members that are an image", id="no picture"),
        pytest.param({"b.png": picture()}, "sample `b` has 0 members that are a .json", id="no text"),
        pytest.param(
            {"b.rf.0.png": picture(), "b.rf.1.png": picture(), "b.json": PAIR},
            "has 2 members that are an image, expected one; it has: b.rf.0.png, b.rf.1.png, b.json",
            id="two pictures",
        ),
        pytest.param({"b.png": picture(), "b.json": b"{"}, "`b`: not a whole JSON object", id="half"),
        pytest.param({"b.png": picture(), "b.json": b"{}"}, "`b`: no `prefix`; the keys", id="no prefix"),
        pytest.param({"b.png": b"", "b.json": PAIR}, "`b`: image `b.png` is empty", id="bad picture"),
        pytest.param(
            {"b.png": picture(), "b.json": PAIR[:-1] + b', "id": "0/a"}'},
            "id `0/a` is duplicated",
            id="twice",
        ),
    ],
)
def test_a_bad_sample_is_named_or_left_out(
    tmp_path: Path, load_with_fault: Callable[..., Dataset], members: dict[str, bytes], message: str
) -> None:
    file = pack(tmp_path / "0.tar", {**pairs("a"), **members})
    assert load_with_fault("webdataset", file, message)["id"][:] == ["0/a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [(b"\xff\xfe\xff", "`b`: its text is not UTF-8"), (b" \n", "`b`: its text is empty")],
)
def test_a_bad_caption_is_named_or_left_out(
    tmp_path: Path, load_with_fault: Callable[..., Dataset], text: bytes, message: str
) -> None:
    members = {"a.png": picture(), "a.txt": b"red", "b.png": picture(), "b.txt": text}
    file = pack(tmp_path / "0.tar", members)
    assert load_with_fault("webdataset", file, message)["captions"][:] == [["red"]]


@pytest.mark.parametrize(
    ("kept", "rows"),
    [
        pytest.param(512 * 8 + 1, 2, id="within the end mark's block"),
        pytest.param(512 * 8, 2, id="before the end mark"),
        pytest.param(512 * 7 + 20, 1, id="within a member"),
        pytest.param(512 * 6 + 100, 1, id="within a header"),
    ],
)
def test_a_shard_that_is_cut_short_is_named_with_its_last_member(
    tmp_path: Path, load: Callable[..., Splits], kept: int, rows: int
) -> None:
    file = pack(tmp_path / "0.tar", pairs("a", "b"))
    whole = file.read_bytes()
    assert len(picture()) < 512
    file.write_bytes(whole[:kept])
    with pytest.raises(UserError, match=r"0.tar: (cut short|sample `b`)"):
        load("webdataset", file)
    splits = load("webdataset", file, on_error="skip")
    assert len(splits.train) == rows
    last = "b.json" if rows == 2 else "b.png"
    offset = 512 * (8 if rows == 2 else 6)
    assert any(f"cut short at byte {offset}, after `{last}`" in fault for fault in splits.skipped)


def test_a_cut_compressed_shard_and_a_block_of_something_else_are_faults(
    tmp_path: Path, load: Callable[..., Splits]
) -> None:
    file = pack(tmp_path / "0.tar", pairs("a", "b"), "w:gz")
    file.write_bytes(file.read_bytes()[:-150])
    with pytest.raises(UserError, match="0.tar: .*cut short"):
        load("webdataset", file)
    whole = bytearray(pack(tmp_path / "1.tar", pairs("a", "b")).read_bytes())
    whole[512 * 4 : 512 * 5] = b"x" * 512
    (tmp_path / "1.tar").write_bytes(whole)
    with pytest.raises(UserError, match=r"1.tar: cut short at byte 2048, after `a.json` \(no end mark\)"):
        load("webdataset", tmp_path / "1.tar")


def test_what_is_no_tar_is_refused(tmp_path: Path, load: Callable[..., Splits]) -> None:
    (tmp_path / "0.tar").write_text("hello")
    with pytest.raises(UserError, match="0.tar: not a tar file, or cut short at its beginning"):
        load("webdataset", tmp_path / "0.tar")
