"""A run's model in Python, Node and Chromium without PyTorch: the same answers, or no files at all."""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from pictures import detect_example
from PIL import Image

import finetune
from finetune.assembly.predictor import Predictor
from finetune.jobs import export as job
from finetune.onnx import graphs
from finetune.onnx.page import VERSION
from finetune.onnx.result import ExportResult
from tests.conftest import REPOSITORY
from tests.onnx.test_graphs import build_causal_mask
from tests.web.browser import chromium

Command = Callable[..., tuple[int, str, str]]

QUESTION = "answer en which digit is this?"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that finds the base's letters as the base does, and has 100 validation examples."""
    folder = tmp_path_factory.mktemp("export")
    short = {"trainer.max_steps": 4, "evaluation.limit": 100, "evaluation.max_new_tokens": 12}
    finetune.train(recipe="quickstart", runs_dir=folder, run_name="digits", **short)
    return folder / "digits"


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`node_modules` with the unmodified Transformers.js; FINETUNE_NODE_MODULES may name one."""
    if given := os.environ.get("FINETUNE_NODE_MODULES"):
        return Path(given)
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("needs node and npm")
    folder = tmp_path_factory.mktemp("node")
    words = ["install", "--ignore-scripts", "--no-package-lock", "--no-audit", "--no-fund"]
    done = subprocess.run(
        [npm, *words, f"@huggingface/transformers@{VERSION}"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"npm cannot install Transformers.js: {done.stderr[-200:]}")
    return folder / "node_modules"


@pytest.fixture(scope="module")
def exported(run: Path, modules: Path) -> ExportResult:
    return finetune.export(run=run, out=run.parent / "onnx", runtime=modules)


@pytest.fixture(scope="module")
def merged(run: Path) -> Predictor:
    """The merged model in float32, as the graphs are."""
    result = finetune.merge(run=run, out=run.parent / "merged", dtype="float32")
    plain = {"model.dtype": "float32", "trainer.bf16": False, "evaluation.max_new_tokens": 12}
    return finetune.load(model=str(result.folder), **plain)


def draw_letters(folder: Path, count: int) -> list[Path]:
    """Letters on a canvas of another size and shape than the model's, which the base finds."""
    files = []
    for seed in range(count):
        image = Image.fromarray(detect_example(np.random.default_rng(seed), 0.0, letters=True).pixels)
        image.resize((150, 120)).save(folder / f"{seed}.png")
        files.append(folder / f"{seed}.png")
    return files


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@pytest.mark.slow
def test_the_graphs_answer_100_inputs_as_the_merged_model(exported: ExportResult) -> None:
    assert (exported.parity.answers, exported.parity.equal) == (100, 100)
    assert exported.scores == exported.model_scores
    settings = json.loads((exported.folder / "config.json").read_text())
    assert settings["transformers.js_config"] == {"dtype": "fp32"}
    assert set(exported.files) == {file.name for file in (exported.folder / "onnx").iterdir()}


@pytest.mark.slow
def test_transformers_js_answers_in_node_as_the_merged_model(
    exported: ExportResult, merged: Predictor, modules: Path, tmp_path: Path
) -> None:
    files = draw_letters(tmp_path, 100)
    prompts = [QUESTION if number % 2 else "detect circle ; square" for number in range(100)]
    questions = [
        {"image": str(file), "prefix": prefix, "exact": exact}
        for exact in (True, False)
        for file, prefix in zip(files, prompts, strict=True)
    ]
    (tmp_path / "questions.json").write_text(json.dumps(questions))
    script = REPOSITORY / "tests/onnx/ask.mjs"
    done = subprocess.run(
        ["node", script, modules, exported.folder, tmp_path / "questions.json"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    rows = merged.ask_all(prompts=[{"image": q["image"], "prefix": q["prefix"]} for q in questions[:100]])
    wanted = [row["prediction"] for row in rows]
    assert len(set(wanted)) > 20
    tokenizer = merged.processor.tokenizer
    texts = [tokenizer.decode([token for token in answer["tokens"] if token != 1]) for answer in answers]
    assert texts[:100] == wanted
    # Transformers.js's own resizing is nearly the training's.
    assert sum(own == exact for own, exact in zip(texts[100:], wanted, strict=True)) >= 60


@pytest.mark.slow
def test_the_page_answers_in_chromium_as_the_run(
    exported: ExportResult, run: Path, merged: Predictor, tmp_path: Path
) -> None:
    [image] = draw_letters(tmp_path, 1)
    prompt = "detect all letters"
    boxes = merged.ask(image, prompt)["prediction"]
    digit = finetune.load(run=run).ask(image, QUESTION)["prediction"]
    assert "<loc" in boxes
    with serve(exported.folder) as url, chromium(tmp_path / "profile") as browser:
        browser.open(url)
        browser.find("body[data-ready=true]", 60)
        browser.requests()
        browser.upload("#file", image)
        for asked, expected in ((prompt, boxes), (QUESTION, digit)):
            browser.run("document.getElementById('prompt').value = arguments[0]", asked)
            browser.run("document.getElementById('result').hidden = true")
            browser.click("#ask")
            browser.find("#result", 60)
            assert browser.run("return document.getElementById('answer').textContent") == expected
            drawn = browser.run("return document.querySelectorAll('#objects li').length")
            assert drawn == expected.count("<loc") // 4
        assert "seconds" in browser.text("#time")
        assert browser.complaints() == []
        # The image goes nowhere.
        assert [address for address in browser.requests() if address.startswith("http")] == []
        # What is no image is reported, and the page lives on.
        (tmp_path / "<b>.png").write_text("no image")
        browser.upload("#file", tmp_path / "<b>.png")
        assert "<b>.png is not an image" in browser.text("#error")


@pytest.mark.slow
def test_8_bits_are_smaller_and_their_agreement_is_measured(
    exported: ExportResult, run: Path, command: Command, tmp_path: Path
) -> None:
    code, out, err = command("export", f"run={run}", f"out={tmp_path / 'q8'}", "dtype=q8")
    assert code == 0, err
    assert "of the merged model" in out
    assert "runtime=FOLDER/node_modules" in out
    sizes = {file.name: file.stat().st_size for file in (tmp_path / "q8/onnx").iterdir()}
    assert set(sizes) == {name.replace(".onnx", "_quantized.onnx") for name in exported.files}
    assert sum(sizes.values()) < 0.4 * sum(exported.files.values())
    settings = json.loads((tmp_path / "q8/config.json").read_text())
    assert settings["transformers.js_config"] == {"dtype": "q8"}


@pytest.mark.slow
def test_graphs_that_answer_otherwise_leave_nothing(
    run: Path, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(graphs, "_build_mask", build_causal_mask)
    code, _, err = command("export", f"run={run}", f"out={tmp_path / 'out'}")
    assert code == 2
    assert "do not answer as the model does" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["run=nowhere", "out=o"], "nowhere", id="no run"),
        pytest.param(["out=o"], "Which run? run=FOLDER", id="run= is missing"),
        pytest.param(["run=RUN"], "Where to? out=FOLDER", id="out= is missing"),
        pytest.param(["run=RUN", "out=o", "format=gguf"], "gguf", id="unknown format"),
        pytest.param(["run=RUN", "out=o", "dtype=q4"], "q4", id="unknown dtype"),
        pytest.param(
            ["run=RUN", "out=foreign"], "is not empty, and `export` did not write", id="foreign folder"
        ),
        pytest.param(["run=RUN", "out=foreign/notes"], "is not a folder", id="a file"),
        pytest.param(["run=RUN", "out=o", "runtime=foreign"], "npm install", id="no runtime"),
        pytest.param(["run=RUN", "out=o", "peft.r=4"], "has no effect", id="an option of the training"),
    ],
)
def test_what_cannot_be_exported_is_said_before_anything_is_written(
    words: list[str],
    message: str,
    run: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/notes").write_text("mine")
    code, _, err = command("export", *(word.replace("RUN", str(run)) for word in words))
    assert code == 2
    assert message in err
    assert [file.name for file in tmp_path.rglob("*")] == ["foreign", "notes"]


def test_a_missing_package_names_the_extra(
    run: Path, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(job, "_PACKAGES", ("onnx", "no_such_package"))
    code, _, err = command("export", f"run={run}", f"out={tmp_path / 'out'}")
    assert (code, list(tmp_path.iterdir())) == (2, [])
    assert "no_such_package: pip install 'finetune-paligemma[onnx]'" in err
