"""A digest follows the rows and their images, and neither their folder nor their machine."""

import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features
from PIL import Image

from finetune.data.examples import fingerprint as module
from finetune.data.examples.fingerprint import fingerprint
from finetune.data.examples.mixture import mix_splits
from finetune.data.options import Jsonl
from finetune.data.rows import PICTURE, Splits, text_features
from finetune.data.shipped.digits import load_digits
from tests.conftest import noise_image
from tests.data.formats.conftest import load as load_fixture
from tests.data.formats.exports import EXPORTS
from tests.data.formats.test_exports import read_export

load = load_fixture


def digest(rows: Dataset, ordered: bool = True) -> str:
    return str(fingerprint(rows, "train", ordered=ordered)["digest"])


@pytest.mark.parametrize("name", sorted(EXPORTS.keys() - {"excel_csv"}))  # its columns need names
def test_data_of_every_format_have_the_same_digest_in_another_folder(
    name: str, tmp_path: Path, load: Callable[..., Splits]
) -> None:
    first = read_export(name, tmp_path / "here", load).train
    second = read_export(name, tmp_path / "elsewhere/deep", load).train
    assert len(first) > 0
    assert digest(first) == digest(second)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Three rows, two of one image."""
    for number in range(2):
        noise_image(number).save(tmp_path / f"{number}.png")
    lines = [f'{{"image": "{n // 2}.png", "prefix": "what {n}?", "suffix": "that"}}\n' for n in range(3)]
    file = tmp_path / "train.jsonl"
    file.write_text("".join(lines), encoding="utf-8")
    return file


def read(file: Path) -> Dataset:
    return Jsonl(train=str(file), validation=str(file)).load().train


def change_text(file: Path) -> None:
    file.write_text(file.read_text(encoding="utf-8").replace("what 2?", "what 3?"), encoding="utf-8")


def change_pixel(file: Path) -> None:
    picture = file.with_name("1.png")
    image = Image.open(picture).convert("RGB")
    image.putpixel((0, 0), (1, 2, 3))
    image.save(picture)


def drop_row(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(lines[:2]), encoding="utf-8")


def change_size(file: Path) -> None:
    with file.with_name("0.png").open("ab") as picture:
        picture.write(b"0")


CHANGES = [
    pytest.param(change_text, id="character"),
    pytest.param(change_pixel, id="pixel"),
    pytest.param(drop_row, id="row"),
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("ordered", [True, False])
def test_one_change_gives_another_digest(
    questions: Path, ordered: bool, change: Callable[[Path], None]
) -> None:
    before = digest(read(questions), ordered)
    change(questions)
    assert digest(read(questions), ordered) != before


def test_the_order_counts_where_it_is_asked_for(questions: Path) -> None:
    rows = read(questions)
    turned = rows.select([2, 0, 1])
    assert digest(rows) != digest(turned)
    assert digest(rows, ordered=False) == digest(turned, ordered=False)
    assert digest(rows, ordered=False) != digest(rows.select([2, 0, 0]), ordered=False)


def test_of_very_many_images_only_the_sizes_are_read(
    questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WHOLE", 100)
    before = fingerprint(read(questions), "train", ordered=True)
    assert before["images"] == "sizes"
    monkeypatch.setattr(module, "_digest_file", lambda path, is_whole: str(Path(path).stat().st_size))
    change_size(questions)
    assert digest(read(questions)) != before["digest"]
    # Of a few rows of the same data the images are read.
    monkeypatch.setattr(module, "_WHOLE", 3000)
    assert fingerprint(read(questions).select([2]), "train", ordered=True)["images"] == "content"


def test_an_image_that_is_replaced_later_is_noticed_by_the_cache(tmp_path: Path) -> None:
    """Rows of a custom function keep their name in the cache when an image changes."""
    noise_image(0).save(tmp_path / "a.png")
    row: dict[str, Any] = {"id": "0", "group": None, "image": str(tmp_path / "a.png"), "question": "?"}
    rows = Dataset.from_list([row], features=text_features("question"))
    before = digest(rows)
    assert digest(rows) == before
    noise_image(1, width=9).save(tmp_path / "a.png")
    assert digest(rows) != before


def with_image(data: bytes) -> Dataset:
    row = {"id": "0", "group": None, "image": {"bytes": data, "path": "/home/somebody/a.png"}}
    return Dataset.from_list([row], features=Features({**text_features(), "image": PICTURE}))


def encode(image: Image.Image, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, **{"format": "PNG", **options})
    return buffer.getvalue()


def test_a_small_png_inside_a_row_counts_by_its_pixels() -> None:
    plain, packed = (encode(noise_image(0), compress_level=level) for level in (0, 9))
    assert plain != packed
    assert digest(with_image(plain)) == digest(with_image(packed))
    assert digest(with_image(encode(noise_image(1)))) != digest(with_image(plain))
    assert digest(with_image(plain[:-40])) != digest(with_image(plain))  # cut: decoding reports it


def test_an_image_counts_the_same_inside_a_row_and_in_a_file(tmp_path: Path) -> None:
    data = encode(noise_image(0), format="JPEG")
    (tmp_path / "a.jpg").write_bytes(data)
    row = {"id": "0", "group": None, "image": str(tmp_path / "a.jpg")}
    assert digest(with_image(data)) == digest(Dataset.from_list([row], features=text_features()))


def test_the_shipped_digits_are_known() -> None:
    splits = load_digits(56)
    digests = [digest(splits.train), digest(splits.validation, ordered=False)]
    assert [text[:15] for text in digests] == ["sha256:f0e8eac3", "sha256:29308433"]


def test_parts_of_a_mixture_count_by_their_content_too(questions: Path) -> None:
    parts = {"files": Splits(read(questions), read(questions)), "inside": load_digits(56)}
    before = digest(mix_splits(parts).train)
    moved = questions.parent / "moved"
    shutil.copytree(questions.parent, moved, ignore=shutil.ignore_patterns("moved"))
    elsewhere = read(moved / "train.jsonl")
    assert digest(mix_splits({**parts, "files": Splits(elsewhere, elsewhere)}).train) == before
    change_pixel(moved / "train.jsonl")
    changed = read(moved / "train.jsonl")
    assert digest(mix_splits({**parts, "files": Splits(changed, changed)}).train) != before
