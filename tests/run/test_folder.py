import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.errors import UserError
from finetune.run.folder import RunFolder
from finetune.run.lock import MARKER


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[[], Path]:
    """Make a folder as a run leaves it, with files of its user's in every corner."""

    def make() -> Path:
        root = tmp_path / "runs/a"
        for name in (
            "config.yaml", "environment.json", "metrics.json", "train.log", "predictions/validation.jsonl",
            "pictures/000.png", "history.jsonl", "report.html", "report.md",
            "thumbnails/validation/000001.png",
            "thumbnails/validation.evaluate.1/000010.jpeg", "predictions/validation.evaluate.blank.jsonl",
            "adapter/adapter_model.safetensors", "adapter/tokenizer.json",
            "checkpoints/checkpoint-5/optimizer.pt", "checkpoints/checkpoint-5/rng_state_1.pth",
            "checkpoints/checkpoint-5/complete", "wandb/offline-run-1/run.wandb", MARKER,
        ):  # fmt: skip
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text("ours")
        return root

    return make


USERS = [
    "notes.txt", "adapter/notes.txt", "checkpoints/best.txt", "checkpoints/checkpoint-old/model.bin",
    "checkpoints/checkpoint-5/why.md", "pictures/mine.jpg", "predictions/other/x.jsonl", "config.yaml.bak",
    "adapter/backup.safetensors", "checkpoints/checkpoint-5/model_before.safetensors", "pictures/mine.png",
    "predictions/mine.jsonl", "thumbnails/validation/mine.png", "thumbnails/mine/000001.png",
]  # fmt: skip


def test_a_new_folder_is_made_and_marked(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs/a")
    folder.claim(resume=False, overwrite=False)
    assert [path.name for path in folder.root.iterdir()] == [MARKER]
    assert folder.is_run


def test_a_folder_that_holds_a_run_is_refused_with_the_three_ways_out(make_run: Callable[[], Path]) -> None:
    root = make_run()
    with pytest.raises(UserError) as error:
        RunFolder(root).claim(resume=False, overwrite=False)
    for remedy in ("run_name=", "resume=true", "overwrite=true"):
        assert remedy in str(error.value)
    assert (root / "config.yaml").exists()


@pytest.mark.parametrize("flag", ["resume", "overwrite", None])
def test_a_folder_that_another_program_wrote_is_never_touched(tmp_path: Path, flag: str | None) -> None:
    (tmp_path / "config.yaml").write_text("name: thesis")
    (tmp_path / "environment.json").write_text('{"command": ["latex"]}')
    (tmp_path / "thesis.docx").touch()
    with pytest.raises(UserError, match="no run wrote what is in it"):
        RunFolder(tmp_path).claim(resume=flag == "resume", overwrite=flag == "overwrite")
    assert len(list(tmp_path.iterdir())) == 3


def test_a_run_of_a_version_without_a_marker_is_known_by_what_it_wrote(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("# @package _global_\ndefaults:\n  - override /model: tiny\n")
    environment = {"command": ["python", "-m", "finetune", "train"], "python": "3.11"}
    (tmp_path / "environment.json").write_text(json.dumps(environment, indent=2))
    RunFolder(tmp_path).claim(resume=False, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == [MARKER]


def test_overwriting_deletes_what_a_run_wrote_and_nothing_else(make_run: Callable[[], Path]) -> None:
    root = make_run()
    for name in USERS:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("mine")
    RunFolder(root).claim(resume=False, overwrite=True)
    left = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert left == {*USERS, MARKER}


def test_a_run_behind_a_link_is_emptied_and_the_link_stays(
    make_run: Callable[[], Path], tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(make_run())
    RunFolder(tmp_path / "link").claim(resume=False, overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert [path.name for path in (tmp_path / "link").iterdir()] == [MARKER]


def test_a_link_to_nothing_and_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    for name in ("link", "file", "file/below"):
        with pytest.raises(UserError, match="run_name="):
            RunFolder(tmp_path / name).claim(resume=False, overwrite=True)


def test_resuming_what_is_not_there_yet_is_a_start(tmp_path: Path) -> None:
    RunFolder(tmp_path / "a").claim(resume=True, overwrite=False)
    assert (tmp_path / "a" / MARKER).is_file()


def test_discarding_leaves_a_users_files(make_run: Callable[[], Path]) -> None:
    root = make_run()
    RunFolder(root).discard()
    assert not root.exists()
    make_run()
    (root / "notes.txt").touch()
    RunFolder(root).discard()
    assert [path.name for path in root.iterdir()] == ["notes.txt"]


def _try(root: str, answers: "multiprocessing.Queue[str]", flag: str) -> None:
    try:
        RunFolder(Path(root)).claim(resume=flag == "resume", overwrite=flag == "overwrite")
        answers.put("taken")
    except UserError as error:
        answers.put(str(error))


@pytest.mark.parametrize("flag", ["resume", "overwrite"])
def test_a_run_that_another_process_writes_is_left_alone(make_run: Callable[[], Path], flag: str) -> None:
    root = make_run()
    folder = RunFolder(root)
    folder.claim(resume=True, overwrite=False)
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[str] = context.Queue()
    for expected in (f"in use by process {os.getpid()}", "taken"):
        other = context.Process(target=_try, args=(str(root), answers, flag))
        other.start()
        answer = answers.get(timeout=30)
        other.join()
        assert expected in answer
        folder.release()


def test_a_folder_that_is_deleted_in_the_middle_is_made_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a")
    folder.claim(resume=False, overwrite=False)
    files = {folder.config: "settings", folder.environment: "versions"}
    folder.restore(files)
    for path in folder.root.iterdir():
        path.unlink()
    folder.root.rmdir()
    folder.restore(files)
    assert folder.config.read_text() == "settings"
    assert (folder.root / MARKER).is_file()
