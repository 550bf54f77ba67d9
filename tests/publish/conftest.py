"""A small finished run, for every test of what is said of one."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finetune.cli import main
from finetune.data.shipped.digits import load_digits
from tests.conftest import REPOSITORY

TINY_RUN = ["trainer.max_steps=6", "trainer.dataloader_num_workers=0", "evaluation.limit=100"]

BLOCK = """import sys
sys.modules |= dict.fromkeys({names})  # what is None here cannot be imported, and no library finds it
"""
ANSWER = """
import json, sys
assert sys.modules.get("finetune") is None
prompts = json.load(open("prompts.json"))
print(json.dumps([ask(f"{number}.png", prompt) for number, prompt in enumerate(prompts)]))
"""


def read_rows(run: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (run / "predictions/validation.jsonl").read_text().splitlines()]


def find_code(card: str) -> str:
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code is not None
    return code[1]


def run_code(code: str, folder: Path, env: Mapping[str, str], blocked: Sequence[str] = ()) -> Any:
    """Run code in a process of its own; return the JSON that it prints last.

    Args:
        code: Python.
        folder: where it runs.
        env: variables that the process gets.
        blocked: packages that it cannot import.
    """
    head = BLOCK.format(names=list(blocked)) if blocked else ""
    (folder / "code.py").write_text(head + code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "code.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, **env},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def place_images(digits: Path, run: Path, folder: Path) -> None:
    """Give a folder the images that a run was scored on, and `prompts.json` with what they are asked."""
    folder.mkdir(exist_ok=True)
    for file in digits.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "prompts.json").write_text(json.dumps([row["prefix"] for row in read_rows(run)]))


def answer_by_code(
    code: str, run: Path, digits: Path, folder: Path, env: Mapping[str, str] | None = None
) -> list[str]:
    """Run the code of a card in a process of its own, about the images that the run was scored on.

    Args:
        code: as it stands in the card.
        run: folder of the run.
        digits: folder of the images.
        folder: where the code runs.
        env: variables that the process gets.
    """
    place_images(digits, run, folder)
    answers: list[str] = run_code(code + ANSWER, folder, {"PYTHONPATH": str(REPOSITORY), **(env or {})})
    assert len(answers) == len(read_rows(run)) == 100
    return answers


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
