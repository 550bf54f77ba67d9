"""What a user installs: the wheel, in an environment of its own, from another folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from finetune.config.compose import known_recipes
from tests.conftest import REPOSITORY


@pytest.mark.slow
def test_the_wheel_finds_its_recipes_and_base_from_another_folder(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), "."],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    )
    wheel = next(tmp_path.glob("*.whl"))
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"finetune/recipes/{name}.yaml" for name in known_recipes()} <= names
    assert {"finetune/conf/config.yaml", "finetune/assets/tiny/model.safetensors"} <= names
    assert {"finetune/report/templates/base.html.j2"} <= names
    assert not any("__pycache__" in name or name.startswith("tests") for name in names)

    environment = tmp_path / "environment"
    # Its dependencies come from this environment; nothing of the checkout does.
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = environment / "bin/python"
    subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True
    )
    site = next((environment / "lib").glob("python*/site-packages"))
    mine = next(path for path in sys.path if path.endswith("site-packages"))
    (site / "dependencies.pth").write_text(f"{mine}\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    words = ["recipe=quickstart", "trainer.max_steps=2", "evaluation.limit=4"]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [str(environment / "bin/finetune"), *words],
        cwd=elsewhere,
        capture_output=True,
        text=True,
        check=False,
        env=variables,
    )
    assert result.returncode == 0, result.stderr
    assert (elsewhere / "runs/quickstart/adapter/adapter_model.safetensors").is_file()
    where = subprocess.run(
        [str(python), "-c", "import finetune; print(finetune.__file__)"],
        cwd=elsewhere,
        capture_output=True,
        text=True,
        check=True,
        env=variables,
    )
    assert str(environment) in where.stdout
