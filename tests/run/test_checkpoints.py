import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from finetune.errors import UserError
from finetune.run.checkpoints import COMPLETE, STATE, find_resume_point, list_checkpoints, rotate, seal


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    def make(step: int, best: int | None = None) -> Path:
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "optimizer.pt").write_bytes(bytes([step]) * 100)
        (folder / "adapter_model.safetensors").write_bytes(bytes([step]) * 200)
        (folder / STATE).write_text(json.dumps({"global_step": step, "best_global_step": best}))
        seal(folder)
        return folder

    return make


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _remove(name: str, folder: Path) -> None:
    (folder / name).unlink()


def replace_by_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def replace_all(folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(folder.parent / "checkpoint-5", folder)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "weights cut": lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"half"),
    "weights zeroed at their end": lambda folder: (folder / "adapter_model.safetensors").write_bytes(
        bytes([10]) * 150 + bytes(50)
    ),
    "a bit of the weights flipped": lambda folder: flip(folder / "adapter_model.safetensors"),
    "a bit of the optimizer flipped": lambda folder: flip(folder / "optimizer.pt"),
    "optimizer missing": partial(_remove, "optimizer.pt"),
    "optimizer empty": lambda folder: (folder / "optimizer.pt").write_bytes(b""),
    "optimizer of another step": lambda folder: shutil.copy(
        folder.parent / "checkpoint-5/optimizer.pt", folder
    ),
    "optimizer is a folder": lambda folder: replace_by_a_folder(folder / "optimizer.pt"),
    "state missing": partial(_remove, STATE),
    "state cut": lambda folder: (folder / STATE).write_text('{"global'),
    "state of another step": lambda folder: shutil.copy(folder.parent / f"checkpoint-5/{STATE}", folder),
    "seal empty": lambda folder: (folder / COMPLETE).write_text(""),
    "seal of another kind": lambda folder: (folder / COMPLETE).write_text("[1]"),
    "seal binary": lambda folder: (folder / COMPLETE).write_bytes(b"\xff\x00"),
    "seal without the state": lambda folder: (folder / COMPLETE).write_text("{}"),
    "everything of another step": replace_all,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(
    make_checkpoint: Callable[..., Path], tmp_path: Path, damage: str
) -> None:
    make_checkpoint(5)
    newest = make_checkpoint(10)
    assert find_resume_point(tmp_path).checkpoint == (10, newest)
    DAMAGE[damage](newest)
    point = find_resume_point(tmp_path)
    assert point.checkpoint is not None
    assert point.checkpoint.step == 5
    assert len(point.damage) == 1
    assert point.damage[0].startswith("checkpoint-10 is damaged: ")


def test_where_every_checkpoint_is_damaged_nothing_is_started(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    for step in (5, 10):
        flip(make_checkpoint(step) / "optimizer.pt")
    with pytest.raises(UserError, match=r"checkpoint-10 is damaged.*checkpoint-5 is damaged"):
        find_resume_point(tmp_path)


def test_a_checkpoint_counts_only_with_the_best_one_it_refers_to(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    make_checkpoint(5, best=5)
    flip(make_checkpoint(10, best=10) / "adapter_model.safetensors")
    make_checkpoint(15, best=10)
    assert find_resume_point(tmp_path).checkpoint is not None
    point = find_resume_point(tmp_path, with_best=True)
    assert point.checkpoint is not None
    assert point.checkpoint.step == 5
    assert "the best one so far, checkpoint-10" in point.damage[0]


def test_half_written_checkpoints_and_other_names_do_not_count(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    assert find_resume_point(tmp_path / "nowhere").checkpoint is None
    (make_checkpoint(100) / COMPLETE).unlink()
    assert find_resume_point(tmp_path).checkpoint is None
    make_checkpoint(20)
    for name in ("checkpoint-old", "checkpoint-", "checkpoint-٣", "checkpoint--1"):
        (tmp_path / name).mkdir()
    assert [checkpoint.step for checkpoint in list_checkpoints(tmp_path)] == [20, 100]
    point = find_resume_point(tmp_path)
    assert point.checkpoint is not None
    assert point.checkpoint.step == 20


@pytest.mark.parametrize(
    ("keep", "best", "left"),
    [(None, None, [1, 2, 3, 4]), (2, None, [3, 4]), (1, None, [4]), (1, 2, [2, 4]), (3, 1, [1, 3, 4])],
)
def test_the_newest_and_the_best_checkpoint_are_kept(
    make_checkpoint: Callable[..., Path],
    tmp_path: Path,
    keep: int | None,
    best: int | None,
    left: list[int],
) -> None:
    for step in (1, 2, 3, 4):
        make_checkpoint(step)
    rotate(tmp_path, keep, best)
    assert [checkpoint.step for checkpoint in list_checkpoints(tmp_path)] == left


def test_a_users_file_in_an_old_checkpoint_stays(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    (make_checkpoint(1) / "notes.txt").touch()
    make_checkpoint(2)
    rotate(tmp_path, 1, None)
    assert [path.name for path in (tmp_path / "checkpoint-1").iterdir()] == ["notes.txt"]
