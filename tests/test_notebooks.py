"""The example notebooks run from top to bottom, without a network."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "examples").glob("*.ipynb"))


def read_notebook(file: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    return notebook


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_is_kept_without_results(file: Path) -> None:
    for cell in read_notebook(file).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.slow
def test_the_quickstart_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = read_notebook(REPOSITORY / "examples/quickstart.ipynb")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    texts = [
        "".join(part.get("text", "") or part["data"].get("text/plain", "") for part in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
    assert "notebook" in texts[0]
    assert "% right, 95 % interval" in texts[1]
    assert "IFrame" in texts[2]
    assert "'prediction': '4'" in texts[3]
    assert "> ring" in texts[4]
    assert "\nequal [" in texts[5]
    pictures = [
        part
        for cell in notebook.cells
        for part in cell.get("outputs", ())
        if "image/png" in part.get("data", {})
    ]
    assert len(pictures) == 3
