import os
import pickle
import resource
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from finetune.data.stored.store import ImageStore, make_key

SHAPE, SIZE = (4, 6), (20, 14)
KEYS = [make_key(bytes([number])) for number in range(5)]


def open_store(folder: Path, dtype: torch.dtype = torch.bfloat16) -> ImageStore:
    return ImageStore(folder / "features" / "key", {"tower": "x"}, SHAPE, dtype)


def draw(key: str, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(int(key[:8], 16))).to(dtype)


def fill(folder: Path, keys: list[str] = KEYS) -> ImageStore:
    store = open_store(folder)
    for key in keys:
        store.write(key, draw(key), SIZE)
    return store


def is_whole(store: ImageStore, key: str) -> bool:
    stored = store.read(key)
    assert stored is None or torch.equal(stored.values, draw(key))
    return stored is not None


def only_file(folder: Path, ending: str) -> Path:
    [file] = folder.rglob(f"*.{ending}")
    return file


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_features_come_back_bit_for_bit_with_the_size_of_the_image(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    store, values = open_store(tmp_path, dtype), draw(KEYS[0], dtype)
    assert store.read(KEYS[0]) is None
    assert not (tmp_path / "features").exists()
    store.write(KEYS[0], values, SIZE)
    for reader in (store, open_store(tmp_path, dtype), pickle.loads(pickle.dumps(store))):
        stored = reader.read(KEYS[0])
        assert stored is not None
        assert torch.equal(stored.values, values)
        assert (stored.values.dtype, stored.size) == (dtype, SIZE)


def test_a_reader_finds_what_another_process_adds_later(tmp_path: Path) -> None:
    reader, writer = open_store(tmp_path), open_store(tmp_path)
    for key in KEYS:
        assert not is_whole(reader, key)
        writer.write(key, draw(key), SIZE)
        assert is_whole(reader, key)
    assert len(reader) == len(KEYS)


def test_an_image_is_stored_once(tmp_path: Path) -> None:
    first, second = fill(tmp_path), fill(tmp_path)
    fill(tmp_path)
    second.write(KEYS[0], draw(KEYS[0]), SIZE)
    assert only_file(tmp_path, "records").stat().st_size == len(KEYS) * first.record_bytes


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        list(pool.map(fill, [tmp_path] * 4))
    store = open_store(tmp_path)
    assert len(store) == len(KEYS)
    assert all(is_whole(store, key) for key in KEYS)


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


DAMAGES: dict[str, Callable[[Path, int], object]] = {
    "a flipped bit": lambda folder, size: flip(only_file(folder, "records"), 2 * size + 5),
    "a flipped bit of the index": lambda folder, size: flip(only_file(folder, "index"), 2 * 32 + 3),
    "a flipped checksum": lambda folder, size: flip(only_file(folder, "index"), 2 * 32 + 18),
    "cut short": lambda folder, size: os.truncate(only_file(folder, "records"), 2 * size + 7),
    "empty": lambda folder, size: only_file(folder, "records").write_bytes(b""),
    "without records": lambda folder, size: only_file(folder, "records").unlink(),
}


@pytest.mark.parametrize("is_open", [pytest.param(True, id="while-read"), pytest.param(False, id="before")])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_found_reported_and_rebuilt(
    tmp_path: Path, reported: Callable[[], str], damage: str, is_open: bool
) -> None:
    store = fill(tmp_path)
    assert all(is_whole(store, key) for key in KEYS)
    DAMAGES[damage](tmp_path, store.record_bytes)
    if not is_open:
        store = open_store(tmp_path)
    whole = [key for key in KEYS if is_whole(store, key)]
    assert KEYS[2] not in whole
    assert len(whole) == {"cut short": 2, "empty": 0, "without records": 0}.get(damage, 4)
    assert reported().count("features of images are damaged") == 1
    fill(tmp_path)
    again = open_store(tmp_path)
    assert all(is_whole(again, key) for key in KEYS)
    assert reported().count("features of images are damaged") == 1


def test_an_index_that_ends_within_an_entry_has_those_before(tmp_path: Path) -> None:
    fill(tmp_path)
    index = only_file(tmp_path, "index")
    index.write_bytes(index.read_bytes()[:-9])
    store = open_store(tmp_path)
    assert [is_whole(store, key) for key in KEYS] == [True] * 4 + [False]
    fill(tmp_path)
    assert is_whole(open_store(tmp_path), KEYS[4])


def test_without_room_nothing_is_kept_and_nothing_is_raised(
    tmp_path: Path, reported: Callable[[], str]
) -> None:
    (tmp_path / "features").write_text("a file in the place of the folder")
    fill(tmp_path)
    assert reported().count("warning: no more features are kept") == 1
    assert not is_whole(open_store(tmp_path), KEYS[0])


def test_images_that_are_decoded_in_two_ways_have_two_keys() -> None:
    assert len({make_key(b"a"), make_key(b"b"), make_key(b"a", True), make_key(b"a", True, False)}) == 4


def test_what_is_spared_of_the_disk_stays_free(tmp_path: Path, reported: Callable[[], str]) -> None:
    free = shutil.disk_usage(tmp_path).free
    store = ImageStore(tmp_path / "features" / "key", {}, SHAPE, torch.bfloat16, spared=2 * free)
    for key in KEYS:
        store.write(key, draw(key), SIZE)
    assert len(open_store(tmp_path)) == 0
    assert reported().count("(what is free is left for checkpoints and other programs)") == 1


def fill_within(store: ImageStore, limit: int) -> int:
    """Store images in a process whose files may have some number of bytes; return how many are kept."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    for key in KEYS:
        store.write(key, torch.ones(store.shape), SIZE)
    return len(store)


@pytest.mark.parametrize(
    ("records", "kept"), [pytest.param(2.5, 2, id="within-a-record"), pytest.param(3, 3, id="at-its-end")]
)
def test_a_disk_that_is_full_keeps_whole_records_alone(tmp_path: Path, records: float, kept: int) -> None:
    store = ImageStore(tmp_path / "features" / "key", {}, (40, 6), torch.bfloat16)
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        assert pool.submit(fill_within, store, int(records * store.record_bytes)).result() == kept
    assert only_file(tmp_path, "records").stat().st_size == kept * store.record_bytes
    assert [store.read(key) is not None for key in KEYS] == [True] * kept + [False] * (5 - kept)


def test_a_writer_that_was_killed_within_a_record_leaves_those_before(tmp_path: Path) -> None:
    store = fill(tmp_path, KEYS[:3])
    with only_file(tmp_path, "records").open("ab") as file:
        file.write(bytes(store.record_bytes // 2))
    again = fill(tmp_path, KEYS)
    assert all(is_whole(again, key) for key in KEYS)
    assert len(list(tmp_path.rglob("*.records"))) == 2


def test_a_shard_that_was_copied_from_other_features_is_not_read(
    tmp_path: Path, reported: Callable[[], str]
) -> None:
    store = fill(tmp_path)
    shutil.copytree(store.folder, store.folder.with_name("other"))
    other = ImageStore(store.folder.with_name("other"), {}, SHAPE, torch.bfloat16)
    assert len(other) == 0
    assert "features of images are damaged" in reported()
    assert all(is_whole(open_store(tmp_path), key) for key in KEYS)


def test_what_another_process_has_struck_out_is_written_again(tmp_path: Path) -> None:
    writer = fill(tmp_path)
    assert len(writer) == 5
    flip(only_file(tmp_path, "records"), 2 * writer.record_bytes + 5)
    assert not is_whole(open_store(tmp_path), KEYS[2])  # as in a data worker
    writer.write(KEYS[2], draw(KEYS[2]), SIZE)
    assert is_whole(writer, KEYS[2])
    assert is_whole(open_store(tmp_path), KEYS[2])


def test_an_index_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    fill(tmp_path)
    for number in range(9):
        (tmp_path / "features" / "key" / f"{number}.index").mkdir()
    assert len(open_store(tmp_path)) == 5


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda folder: os.truncate(only_file(folder, "records"), 50), id="cut-short"),
        pytest.param(lambda folder: shutil.rmtree(folder / "features"), id="deleted"),
    ],
)
def test_a_writer_whose_shard_is_lost_goes_on_with_another(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    writer = fill(tmp_path, KEYS[:3])
    damage(tmp_path)
    for key in KEYS[3:]:
        writer.write(key, draw(key), SIZE)
    assert all(is_whole(open_store(tmp_path), key) for key in KEYS[3:])
