from pathlib import Path

import pytest

from finetune.errors import UserError
from finetune.run.out_folder import OutFolder


def write(root: Path, *names: str, text: str = "new", overwrite: bool = False) -> None:
    with OutFolder(root, "merge").writing(overwrite=overwrite) as target:
        for name in names:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_text(text)


def write_half(root: Path) -> None:
    with OutFolder(root, "merge").writing(overwrite=True) as target:
        (target / "a.txt").write_text("half")
        raise RuntimeError


def list_files(root: Path) -> set[str]:
    return {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}


def test_files_appear_together_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "out", "a.txt", "deep/b.txt")
    assert list_files(tmp_path) == {"out/a.txt", "out/deep/b.txt", "out/.finetune-merge"}


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        write_half(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_error_leaves_the_old_result(tmp_path: Path) -> None:
    root = tmp_path / "out"
    write(root, "a.txt", text="old")
    with pytest.raises(RuntimeError):
        write_half(root)
    assert (root / "a.txt").read_text() == "old"
    assert list(tmp_path.iterdir()) == [root]


def test_a_result_is_replaced_with_overwrite_and_other_files_are_kept(tmp_path: Path) -> None:
    root = tmp_path / "out"
    write(root, "a.txt", "deep/b.txt", text="old")
    (root / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="already has a result of `merge`.*overwrite=true"):
        write(root, "a.txt")
    write(root, "a.txt", "c.txt", overwrite=True)
    assert list_files(root) == {"a.txt", "c.txt", "mine.txt", ".finetune-merge"}
    assert not (root / "deep").exists()
    assert (root / "a.txt").read_text() == "new"


def test_a_folder_of_someone_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(
        UserError, match=r"`merge` did not write what is in it \(there is no .finetune-merge"
    ):
        write(tmp_path, "a.txt", overwrite=True)
    assert list_files(tmp_path) == {"mine.txt"}


def test_another_jobs_folder_is_not_replaced(tmp_path: Path) -> None:
    write(tmp_path / "out", "a.txt")
    with pytest.raises(UserError, match="`export` did not write"):
        OutFolder(tmp_path / "out", "export").check(overwrite=True)


def test_a_file_that_was_changed_since_is_not_replaced(tmp_path: Path) -> None:
    root = tmp_path / "out"
    write(root, "a.txt")
    (root / "a.txt").write_text("edited by hand")
    with pytest.raises(UserError, match=r"a\.txt was changed after `merge` had written it"):
        write(root, "a.txt", overwrite=True)
    assert (root / "a.txt").read_text() == "edited by hand"


def test_a_users_file_with_the_name_of_a_new_one_is_kept(tmp_path: Path) -> None:
    root = tmp_path / "out"
    write(root, "a.txt", text="old")
    (root / "b.txt").write_text("mine")
    with pytest.raises(UserError, match=r"b\.txt is there, and `merge` did not write it"):
        write(root, "a.txt", "b.txt", overwrite=True)
    assert (root / "a.txt").read_text() == "old"
    assert (root / "b.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "marker",
    [
        pytest.param("", id="empty"),
        pytest.param('{"files": ["a.txt"]}', id="without digests"),
        pytest.param('{"files": {"../precious.txt": "0"}}', id="outside"),
        pytest.param('{"files": {"/etc/passwd": "0"}}', id="absolute"),
    ],
)
def test_a_marker_that_proves_nothing_deletes_nothing(tmp_path: Path, marker: str) -> None:
    root = tmp_path / "out"
    write(root, "a.txt", text="old")
    (tmp_path / "precious.txt").write_text("mine")
    (root / ".finetune-merge").write_text(marker)
    with pytest.raises(UserError, match="does not list the files"):
        write(root, "a.txt", overwrite=True)
    assert (root / "a.txt").read_text() == "old"
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="is not a folder"):
        write(tmp_path / "out", "a.txt", overwrite=True)
