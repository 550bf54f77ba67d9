"""The page that runs an export in the browser: its own files, and those of Transformers.js."""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

from finetune.errors import UserError, describe
from finetune.strict_json import parse_json

log = logging.getLogger(__name__)

VERSION = "4.3.1"
"""Of Transformers.js, with which the page was tested."""

_FILES = Path(__file__).resolve().parent / "page_files"
_LIBRARY = "@huggingface/transformers"
_INSTALL = f"npm install --ignore-scripts {_LIBRARY}@{VERSION}"
_WEB = ("ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""ONNX Runtime as Transformers.js loads it in a browser."""


def find_runtime(folder: Path) -> list[Path]:
    """Return the files of Transformers.js that the page needs.

    Args:
        folder: `node_modules`, or the folder with it.

    Raises:
        UserError: they are not there.
    """
    modules = folder if folder.name == "node_modules" else folder / "node_modules"
    library = modules / _LIBRARY
    # npm places a package inside the one that needs another version of it.
    nearest = [library / "node_modules/onnxruntime-web/dist", modules / "onnxruntime-web/dist"]
    web = next((path for path in nearest if path.is_dir()), nearest[-1])
    files = [library / "dist/transformers.min.js", *(web / name for name in _WEB)]
    if missing := [str(file) for file in files if not file.is_file()]:
        raise UserError(
            f"runtime={folder}: expected the node_modules of Transformers.js, but there is no "
            f"{missing[0]}. In a folder of its own: {_INSTALL}, then runtime=FOLDER/node_modules."
        )
    try:
        about = parse_json((library / "package.json").read_bytes())
    except (OSError, ValueError):
        about = None
    version = about.get("version") if isinstance(about, Mapping) else None
    if version != VERSION:
        log.warning(
            "warning: runtime= has Transformers.js %s; the page was tested with %s: %s",
            describe(version),
            VERSION,
            _INSTALL,
        )
    return files


def write_page(folder: Path, settings: Mapping[str, object], runtime: list[Path] | None) -> None:
    """Write the page next to the model's files.

    Args:
        folder: of the export.
        settings: content of `page.json`.
        runtime: files of Transformers.js; None if the user adds them.
    """
    for file in sorted(_FILES.iterdir()):
        if file.suffix in {".html", ".css", ".js", ".md"}:
            shutil.copyfile(file, folder / file.name)
    (folder / "page.json").write_text(json.dumps(settings, ensure_ascii=False, indent=2), encoding="utf-8")
    (folder / "runtime").mkdir()
    for file in runtime or ():
        shutil.copyfile(file, folder / "runtime" / file.name)
