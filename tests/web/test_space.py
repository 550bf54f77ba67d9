import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from gradio_client import Client, handle_file
from huggingface_hub import HfApi
from omegaconf import OmegaConf
from packaging.requirements import Requirement

import finetune
from finetune.errors import UserError
from finetune.web.space import clean_recipe
from tests.hub.client import ConnectedHub
from tests.web.conftest import QUESTION


@pytest.fixture
def space(demo_run: Path, tmp_path: Path) -> Path:
    folder = finetune.demo(run=demo_run, export=tmp_path / "space").folder
    assert folder == tmp_path / "space"
    return folder


def ask_space(folder: Path, image: Path, **variables: str) -> dict[str, Any]:
    """Run the Space's program as the Hub does, without this checkout, and ask it."""
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": "0", **variables}
    words = [sys.executable, "app.py"]
    with subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            client = Client(url, verbose=False, httpx_kwargs={"trust_env": False})
            row: dict[str, Any] = client.predict(
                handle_file(str(image)), question=QUESTION, api_name="/ask"
            )[2]
        finally:
            process.kill()
    return row


@pytest.mark.slow
def test_a_space_answers_as_the_run_does_without_this_package(space: Path, demo_run: Path) -> None:
    image = demo_run.parent / "letter-1.png"
    imported = subprocess.run(
        [sys.executable, "-c", "import finetune; print(finetune.__file__)"],
        cwd=space, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert imported.stdout.strip() == str(space / "finetune/__init__.py")
    [expected] = finetune.predict(run=demo_run, image=image, question=QUESTION).rows
    assert ask_space(space, image) == {**expected, "image": image.name}


def test_a_space_has_what_the_hub_wants_of_one(space: Path) -> None:
    head = yaml.safe_load((space / "README.md").read_text().split("---\n")[1])
    assert head["sdk"] == "gradio"
    assert (space / head["app_file"]).is_file()
    assert re.fullmatch(r"\d+\.\d+\.\d+", head["sdk_version"])
    pinned = [Requirement(line) for line in (space / "requirements.txt").read_text().splitlines()]
    assert {"torch", "transformers", "peft", "jinja2"} <= {one.name for one in pinned}
    assert all(re.fullmatch(r"==[\w.]+", str(one.specifier)) for one in pinned)


def test_a_space_says_nothing_of_the_machine_that_made_it(space: Path, demo_run: Path) -> None:
    texts = [file for file in space.rglob("*") if file.is_file() and "finetune" not in file.parent.parts]
    for file in (file for file in texts if file.suffix in {".py", ".md", ".txt", ".yaml"}):
        assert str(demo_run.parent) not in file.read_text(), file
    assert not list(space.rglob("__pycache__"))
    assert not (space / "run/environment.json").exists()


def test_paths_of_a_recipe_lose_their_folders() -> None:
    recipe = OmegaConf.create(
        {
            "runs_dir": "/home/me/runs",
            "adapter": "/home/me/first",
            "model": {"path": "google/paligemma-3b-pt-224"},
            "dataset": {
                "train": ["/me/a.jsonl", "~/b.jsonl"],
                "image_dir": "C:\\me\\images",
                "path": "ann/cats",
            },
        }
    )
    assert OmegaConf.to_container(clean_recipe(recipe)) == {
        "runs_dir": "runs",
        "adapter": None,
        "model": {"path": "google/paligemma-3b-pt-224"},
        "dataset": {"train": ["a.jsonl", "b.jsonl"], "image_dir": "images", "path": "ann/cats"},
    }


@pytest.mark.slow
def test_published_weights_are_loaded_from_their_repository(
    demo_run: Path, tmp_path: Path, hub: ConnectedHub
) -> None:
    HfApi().create_repo("ann/digits", private=True)
    HfApi().upload_folder(repo_id="ann/digits", folder_path=demo_run / "adapter")
    image = demo_run.parent / "letter-2.png"
    [expected] = finetune.predict(run=demo_run, image=image, question=QUESTION).rows
    folder = finetune.demo(run=demo_run, export=tmp_path / "space", repo="ann/digits").folder
    assert folder is not None
    assert not (folder / "run/adapter").exists()
    assert 'snapshot_download("ann/digits", local_dir=RUN / "adapter"' in (folder / "app.py").read_text()
    head = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    assert head["models"] == ["ann/digits"]
    assert ask_space(folder, image, **hub.env) == {**expected, "image": image.name}


def test_a_folder_of_others_is_not_written(space: Path, demo_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"replace it \(overwrite=true\)"):
        finetune.demo(run=demo_run, export=space)
    (space / "notes.txt").write_text("mine")
    finetune.demo(run=demo_run, export=space, overwrite=True)
    assert (space / "notes.txt").read_text() == "mine"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/app.py").write_text("mine")
    with pytest.raises(UserError, match="did not write what is in it"):
        finetune.demo(run=demo_run, export=tmp_path / "mine", overwrite=True)
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["app.py"]


@pytest.mark.parametrize(
    "repo", ["digits", "ann/digits/more", "ann/di gits", "https://huggingface.co/ann/digits"]
)
def test_a_repository_has_a_user_and_a_name(demo_run: Path, tmp_path: Path, repo: str) -> None:
    with pytest.raises(UserError, match="expected USER/NAME"):
        finetune.demo(run=demo_run, export=tmp_path / "space", repo=repo)
    assert list(tmp_path.iterdir()) == []


def test_a_base_of_this_machine_cannot_be_a_space(demo_run: Path, tmp_path: Path) -> None:
    shutil.copytree(demo_run, tmp_path / "run")
    config = tmp_path / "run/config.yaml"
    config.write_text(config.read_text().replace("path: tiny", f"path: {tmp_path}"))
    with pytest.raises(UserError, match="a folder of this machine"):
        finetune.demo(run=tmp_path / "run", export=tmp_path / "space")
    assert not (tmp_path / "space").exists()
    assert json.loads((tmp_path / "run/metrics.json").read_text())
