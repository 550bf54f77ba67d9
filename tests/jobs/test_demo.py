import builtins
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import finetune
from finetune.errors import UserError
from tests.conftest import REPOSITORY, noise_image

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on files of its own, which hardly learned anything; a folder that may be changed."""
    folder = tmp_path_factory.mktemp("demo")
    lines = []
    for number in range(8):
        noise_image(number, 64, 64).save(folder / f"{number}.png")
        lines.append(f'{{"image": "{number}.png", "prefix": "caption en", "suffix": "a cat"}}\n')
    (folder / "rows.jsonl").write_text("".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_CACHE", str(folder / "cache"))
        rows = {"train": str(folder / "rows.jsonl"), "validation": str(folder / "rows.jsonl")}
        finetune.train(
            recipe="text_qlora", model="tiny", runs_dir=folder, run_name="run",
            **{f"dataset.{name}": file for name, file in rows.items()},
            **{"dataset": "jsonl", "trainer.max_steps": 1, "trainer.global_batch_size": 2,
               "trainer.dataloader_num_workers": 0},
        )  # fmt: skip
    return folder / "run"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param("run=nowhere", "nowhere", id="unknown run"),
        pytest.param("run={empty}", "config.yaml", id="no run"),
        pytest.param("run={unfinished}", "is not finished", id="unfinished"),
        pytest.param("", "Which model? run=FOLDER", id="no model"),
        pytest.param("run={run} model=tiny", "model= with run=FOLDER has no effect", id="two models"),
        pytest.param("run={run} image=a.png", "image= has no effect on `demo`", id="option of predict"),
        pytest.param("run={run} host=nowhere.invalid", "host=nowhere.invalid: no such address", id="host"),
        pytest.param("run={run} host=192.0.2.1", "is no address of this machine", id="foreign host"),
        pytest.param("run={run} port=70000", "port", id="no port"),
        pytest.param("run={run} port=-1", "port", id="negative port"),
        pytest.param("run={run} max_upload_mb=0", "max_upload_mb", id="no upload"),
        pytest.param("run={run} max_images=0", "max_images", id="no images"),
        pytest.param("run={run} repo=ann/cat", "needs export=FOLDER", id="repo without export"),
        pytest.param("run={run} overwrite=true", "needs export=FOLDER", id="overwrite without export"),
        pytest.param("model=tiny export=space", "it needs run=FOLDER", id="export without run"),
        pytest.param("run={run} prefix=x question=y", "choose one", id="two prompts"),
    ],
)
def test_a_mistake_is_reported_before_weights_are_read(
    command: Command, trained: Path, tmp_path: Path, words: str, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    shutil.copytree(trained, tmp_path / "unfinished", ignore=shutil.ignore_patterns("adapter"))
    places = {"run": trained, "empty": tmp_path / "empty", "unfinished": tmp_path / "unfinished"}
    code, out, err = command("demo", *words.format(**places).split())
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_two_demos_on_one_port_are_a_mistake(command: Command, trained: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = command("demo", f"run={trained}", f"port={port}")
    assert code == 2
    assert (
        f"port={port} is in use, perhaps by another demo. Choose another, or any free one: port=0." in err
    )


def test_without_gradio_the_extra_is_named(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = builtins.__import__

    def refuse(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "gradio":
            raise ImportError("No module named 'gradio'")
        return plain(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r"pip install 'finetune-paligemma\[demo\]'"):
        finetune.demo(run=trained, port=0)


def test_whoever_opens_the_page_to_others_is_warned(trained: Path, reported: Callable[[], str]) -> None:
    with finetune.demo(run=trained, port=0, host="0.0.0.0") as page:
        assert page.url.startswith("http://localhost:")
        assert httpx.get(page.url, trust_env=False).status_code == 200
    assert "warning: host=0.0.0.0: everybody who reaches this machine can ask" in reported()


def test_examples_whose_data_is_gone_are_left_out(
    trained: Path, tmp_path: Path, reported: Callable[[], str]
) -> None:
    (trained.parent / "3.png").rename(tmp_path / "3.png")
    try:
        with finetune.demo(run=trained, port=0) as page:
            assert httpx.get(page.url, trust_env=False).status_code == 200
    finally:
        (tmp_path / "3.png").rename(trained.parent / "3.png")
    assert "3.png" in reported()
    assert "warning: " in reported()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_page(trained: Path, tmp_path: Path, number: signal.Signals, code: int) -> None:
    words = [sys.executable, "-m", "finetune", "demo", f"run={trained}", "port=0", "examples=0"]
    variables = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(tmp_path)}
    variables.pop("GRADIO_TEMP_DIR", None)
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables, cwd=tmp_path
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = line.split()[1]
        # A browser keeps a connection open; it must not keep the page alive.
        with httpx.Client(trust_env=False) as browser:
            assert browser.get(url).status_code == 200
            started = time.monotonic()
            process.send_signal(number)
            out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (code, "", f"{number.name}: stopped.\n")
    assert time.monotonic() - started < 10
    assert list(tmp_path.glob("finetune-*")) == []
