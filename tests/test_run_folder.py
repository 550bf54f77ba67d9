import json
from pathlib import Path

import pytest

from finetune.errors import UserError
from finetune.run_folder import (
    COMPLETE,
    RunFolder,
    explain_disk_errors,
    write_folder,
    write_json,
    write_jsonl,
    write_text,
)


def test_a_new_folder_is_made(tmp_path: Path) -> None:
    RunFolder(tmp_path / "runs/a").claim(resume=False, overwrite=False)
    assert (tmp_path / "runs/a").is_dir()


def test_a_folder_that_holds_a_run_is_refused_with_the_three_ways_out(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    (tmp_path / "checkpoints/checkpoint-5").mkdir(parents=True)
    (tmp_path / "checkpoints/checkpoint-5" / COMPLETE).touch()
    with pytest.raises(UserError) as error:
        RunFolder(tmp_path).claim(resume=False, overwrite=False)
    for remedy in ("run_name=", "resume=true", "overwrite=true"):
        assert remedy in str(error.value)
    assert (tmp_path / "config.yaml").exists()


def test_overwriting_deletes_a_run_and_nothing_else(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "thesis.docx").touch()
    with pytest.raises(UserError, match="which is not a run"):
        RunFolder(run).claim(resume=False, overwrite=True)
    assert (run / "thesis.docx").exists()
    (run / "config.yaml").touch()
    RunFolder(run).claim(resume=False, overwrite=True)
    assert list(run.iterdir()) == []


def test_half_written_checkpoints_do_not_count(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in (5, 10, 100):
        (folder.checkpoints / f"checkpoint-{step}").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no complete checkpoint"):
        folder.claim(resume=True, overwrite=False)
    for step in (5, 10):
        (folder.checkpoints / f"checkpoint-{step}" / COMPLETE).touch()
    last = folder.last_checkpoint()
    assert last is not None
    assert last.name == "checkpoint-10"
    assert [path.name for path in folder.incomplete_checkpoints()] == ["checkpoint-100"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"a": object()})
    with pytest.raises(TypeError):
        write_jsonl(tmp_path / "x.json", [{"a": 1}, {"a": object()}])
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    write_folder(tmp_path / "out", lambda path: (path / "a").touch())

    def fail(path: Path) -> None:
        (path / "b").touch()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_folder(tmp_path / "out", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_explained() -> None:
    with (
        pytest.raises(UserError, match="The disk is full"),
        explain_disk_errors(Path("runs/a")),
        Path("/dev/full").open("w", buffering=1) as file,
    ):
        file.write("x\n")


def test_a_folder_that_may_not_be_written_is_explained() -> None:
    with pytest.raises(UserError, match="May not write"), explain_disk_errors(Path("runs/a")):
        raise PermissionError(13, "Permission denied")


def test_text_is_written_in_any_script(tmp_path: Path) -> None:
    write_text(tmp_path / "a/b.txt", "猫")
    assert (tmp_path / "a/b.txt").read_text(encoding="utf-8") == "猫"
