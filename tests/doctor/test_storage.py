from pathlib import Path

import datasets
import pytest

from finetune.doctor.finding import Level
from finetune.doctor.storage import check_disk, check_storage


def test_free_disk_is_that_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    finding = check_disk("disk", tmp_path / "not/yet", 0, "another disk")
    assert finding.level == Level.ok
    assert str(tmp_path / "not/yet") in finding.text
    assert not (tmp_path / "not").exists()


def test_too_little_disk_is_a_problem_with_its_remedy(tmp_path: Path) -> None:
    finding = check_disk("disk", tmp_path, 1e9, "another disk")
    assert (finding.level, finding.remedy) == (Level.problem, "another disk")


def test_a_token_is_reported_but_never_printed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnop")
    texts = [finding.text + finding.remedy for finding in check_storage(tmp_path)]
    assert "present" in texts
    assert not any("abcdefgh" in text for text in texts)


def test_the_cache_is_measured_and_the_way_to_clear_it_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    (tmp_path / "finetune/rows").mkdir(parents=True)
    (tmp_path / "finetune/rows/rows.arrow").write_bytes(bytes(3 << 20))
    found = next(finding for finding in check_storage(tmp_path) if finding.subject == "cache of rows")
    assert found.text.startswith(f"3.0 MiB in {tmp_path / 'finetune'}; to clear it")
