import subprocess
import sys

import pytest

from finetune.codecs.rle import decode_rle, parse_rle, read_runs


def test_plain_runs_are_read_column_by_column_background_first() -> None:
    mask = decode_rle({"size": [2, 3], "counts": [1, 2, 3]}, (2, 3))
    assert mask.tolist() == [[False, True, False], [True, False, False]]


def test_compressed_and_plain_runs_are_the_same() -> None:
    assert parse_rle({"size": [2, 3], "counts": "123"}) == ([1, 2, 3], (2, 3))
    assert parse_rle({"size": [2, 3], "counts": b"123"}) == ([1, 2, 3], (2, 3))


def test_runs_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"size \(3, 2\), but got \(2, 3\)"):
        read_runs({"size": [2, 3], "counts": [6]}, (3, 2))


def test_reading_them_needs_numpy_alone() -> None:
    code = "import sys, finetune.codecs.rle; assert not {'torch', 'pycocotools'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
