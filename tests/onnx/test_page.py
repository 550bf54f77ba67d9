"""The page's own arithmetic, and the files of Transformers.js that it needs."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.Image import Resampling

from finetune.data.batches.resize import resize_as_paper
from finetune.errors import UserError
from finetune.onnx import page
from finetune.onnx.page import VERSION, find_runtime, write_page

PAGE = Path(page.__file__).parent / "page_files"
SIZES = [(20, 14, 56), (56, 56, 56), (333, 77, 56), (57, 56, 56), (1000, 3, 28), (7, 5, 112)]


def run_node(script: str, *arguments: str) -> str:
    """Run a module in Node; `LOAD(name)` in it imports a file of the page."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    # Node takes a file for a module by its name or its package; a page's has neither.
    head = (
        'import { readFileSync } from "node:fs";'
        f"const READ = (name) => readFileSync(`{PAGE}/${{name}}`, 'utf8');"
        "const LOAD = (name) => import(`data:text/javascript,${encodeURIComponent(READ(name))}`);"
    )
    done = subprocess.run(
        [node, "--input-type=module", "-e", head + script, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def resize(image: Image.Image, side: int, kernel: str) -> Image.Image:
    if kernel.startswith("paper"):
        return resize_as_paper(image, (side, side), kernel != "paper")
    return image.resize((side, side), Resampling[kernel.upper()])


def test_the_page_resizes_to_the_bytes_of_the_training(tmp_path: Path) -> None:
    cases = []
    for number, (width, height, side) in enumerate(SIZES):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        for kernel in ("bicubic", "bilinear", "paper", "paper_antialiased"):
            expected = np.asarray(resize(Image.fromarray(pixels), side, kernel))
            image = {"width": width, "height": height, "data": pixels.flatten().tolist()}
            cases.append(
                {"image": image, "side": side, "kernel": kernel, "expected": expected.flatten().tolist()}
            )
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    out = run_node(
        """
        const { resize } = await LOAD("pixels.js");
        for (const { image, side, kernel, expected } of JSON.parse(readFileSync(process.argv[1], "utf8"))) {
          const { data } = resize({ ...image, data: Uint8ClampedArray.from(image.data) }, side, kernel);
          console.log(data.length === expected.length && expected.every((value, at) => value === data[at]));
        }
        """,
        str(tmp_path / "cases.json"),
    )
    assert out.split() == ["true"] * len(cases)


def test_the_page_reads_boxes_y_before_x() -> None:
    text = "<loc0000><loc0512><loc1023><loc1023> red circle ; <loc0100><loc0300><loc0050><loc0200><seg001>"
    out = run_node(
        'const { readObjects } = await LOAD("objects.js");'
        "console.log(JSON.stringify(readObjects(process.argv[1], 1023, 2046, 1023)));",
        text,
    )
    first, second = json.loads(out)
    assert first == {"label": "red circle", "box": [512, 0, 1023, 2046], "hasMask": False}
    assert second == {"label": "", "box": [200, 100, 300, 200], "hasMask": True}


def write_modules(folder: Path, version: str) -> Path:
    for name in (
        "@huggingface/transformers/dist/transformers.min.js",
        "onnxruntime-web/dist/ort-wasm-simd-threaded.mjs",
        "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm",
    ):
        (folder / "node_modules" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "node_modules" / name).write_text(name)
    package = folder / "node_modules/@huggingface/transformers/package.json"
    package.write_text(json.dumps({"version": version}))
    return folder


@pytest.mark.parametrize("inside", [".", "node_modules"])
def test_the_runtime_is_found_in_node_modules_and_next_to_it(tmp_path: Path, inside: str) -> None:
    runtime = find_runtime(write_modules(tmp_path, VERSION) / inside)
    (tmp_path / "out").mkdir()
    write_page(tmp_path / "out", {"title": "</script>"}, runtime)
    assert {file.name for file in (tmp_path / "out/runtime").iterdir()} == {file.name for file in runtime}
    assert json.loads((tmp_path / "out/page.json").read_text()) == {"title": "</script>"}
    assert (tmp_path / "out/index.html").is_file()


def test_a_runtime_that_is_not_there_names_the_command_that_installs_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"there is no .*transformers.min.js.*npm install .*@{VERSION}"):
        find_runtime(tmp_path)


def test_another_version_of_the_runtime_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    find_runtime(write_modules(tmp_path, "3.0.0"))
    assert "3.0.0" in caplog.text


def test_the_page_names_no_other_server() -> None:
    for file in PAGE.iterdir():
        if file.suffix in {".html", ".js", ".css"}:
            assert "http://" not in file.read_text(encoding="utf-8").replace("https://", "http://"), file
