import json
from pathlib import Path

import pytest
from safetensors import SafetensorError

from finetune.errors import UserError
from finetune.run.files import (
    explain_disk_errors,
    read_json,
    write_folder,
    write_json,
    write_jsonl,
    write_text,
)


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


def test_a_folder_that_is_replaced_keeps_the_files_that_no_run_wrote(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    write_folder(folder, lambda path: (path / "adapter_model.safetensors").write_text("old"))
    (folder / "notes.txt").write_text("mine")
    write_folder(folder, lambda path: (path / "adapter_config.json").write_text("new"))
    assert {path.name for path in folder.iterdir()} == {"adapter_config.json", "notes.txt"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_explained() -> None:
    with (
        pytest.raises(UserError, match="The disk is full"),
        explain_disk_errors(Path("runs/a")),
        Path("/dev/full").open("w", buffering=1) as file,
    ):
        file.write("x\n")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        pytest.param(PermissionError(13, "Permission denied"), "May not write", id="no permission"),
        pytest.param(OSError(27, "File too large"), "disk is full", id="a limit on files"),
        pytest.param(SafetensorError("I/O error: File too large (os error 27)"), "quota", id="safetensors"),
    ],
)
def test_a_folder_that_cannot_be_written_is_explained(error: Exception, message: str) -> None:
    with pytest.raises(UserError, match=message), explain_disk_errors(Path("runs/a")):
        raise error


def test_text_is_written_in_any_script(tmp_path: Path) -> None:
    write_text(tmp_path / "a/b.txt", "猫")
    assert (tmp_path / "a/b.txt").read_text(encoding="utf-8") == "猫"


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_json_that_was_damaged_is_one_message(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metrics.json").write_bytes(content)
    with pytest.raises(UserError, match=r"metrics\.json: expected the JSON that the run wrote"):
        read_json(tmp_path / "metrics.json")
