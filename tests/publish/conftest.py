"""A small finished run, for every test of what is said of one."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finetune.cli import main
from finetune.data.shipped.digits import load_digits

TINY_RUN = ["trainer.max_steps=6", "trainer.dataloader_num_workers=0", "evaluation.limit=100"]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A QLoRA run on the tiny base; copy it before changing it."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["recipe=quickstart", *TINY_RUN]) == 0
    return folder / "runs/quickstart"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """The same run, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "runs/quickstart"))


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files `0.png`, `1.png`, ... of the first 100 validation digits, and `image.jpg`."""
    folder = tmp_path_factory.mktemp("digits")
    for number, row in enumerate(load_digits(56).validation.select(range(100))):
        (folder / f"{number}.png").write_bytes(row["image"]["bytes"])
    Image.open(io.BytesIO((folder / "0.png").read_bytes())).save(folder / "image.jpg")
    return folder


@pytest.fixture
def change() -> Callable[..., None]:
    """Change the JSON object in a file."""

    def apply(file: Path, **values: Any) -> None:
        content = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps({**content, **values}), encoding="utf-8")

    return apply
