"""Every command that documents and recipes' headers name composes; every link leads somewhere."""

import re
import runpy
import shlex
import shutil
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from itertools import dropwhile
from pathlib import Path

import pytest
from PIL import Image

from finetune.cli import main
from finetune.config.compose import group_choices, known_recipes
from finetune.config.help import GROUPS
from finetune.model.load import TINY_BASE
from tests.conftest import REPOSITORY
from tests.data.formats import exports
from tests.test_data_documents import write_page_files
from tests.test_house import EVERYWHERE, MAY_IMPORT, PACKAGE

Command = Callable[..., tuple[int, str, str]]

DOCUMENTS = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "CHANGELOG.md",
    REPOSITORY / "benchmarks/README.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
    *sorted((REPOSITORY / "scripts").rglob("*.md")),
]


def find_commands() -> list[tuple[str, str]]:
    """Lines of shell blocks in documents, and indented lines in recipe headers."""
    found = []
    for document in DOCUMENTS:
        for block in re.findall(r"```bash\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL):
            found += [(document.name, line) for line in block.splitlines() if line.strip()]
    for name, file in known_recipes().items():
        for line in re.findall(r"^# {3}(python .*|torchrun .*|cp .*)$", file.read_text(), re.MULTILINE):
            found.append((f"{name}.yaml", re.sub(r"\s{2,}[a-z].*$", "", line)))
    return found


COMMANDS = find_commands()


def write_own_data(folder: Path) -> None:
    """Write the files that recipes' headers and the README name."""
    exports.roboflow_coco(folder / "export")
    exports.maestro(folder / "maestro")
    exports.draw(exports.ALL[0], folder / "flowers/rose/a.jpg")
    exports.draw(exports.ALL[1], folder / "flowers/daisy/b.jpg")
    rows = [{"image": scene.name, "prefix": "extract", "suffix": '{"a": 1}'} for scene in exports.ALL]
    for scene in exports.ALL:
        exports.draw(scene, folder / "receipts" / scene.name)
    exports.write_lines(folder / "receipts/train.jsonl", rows)
    exports.write_lines(folder / "train.jsonl", [{**row, "suffix": "a cup"} for row in rows])
    exports.write(folder / "questions.csv", "image,question,answer\na.jpg,what?,a cup\n")
    exports.write(folder / "captions.csv", "image,caption\na.jpg,a cup\n")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run and the files that the documents speak of."""
    folder = tmp_path_factory.mktemp("documents")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = ["recipe=quickstart", "trainer.max_steps=1", "evaluation.limit=2"]
        assert main(words) == 0
        for name in ("NAME", "questions"):
            assert main([*words, f"run_name={name}"]) == 0
        assert (
            main(["recipe=quickstart_detect", *words[1:], "dataset.train=64", "dataset.validation=2"]) == 0
        )
    write_page_files(folder)
    write_own_data(folder / "mine")
    shutil.copytree(REPOSITORY / "recipes", folder / "recipes")
    shutil.copy(REPOSITORY / "recipes/jsonl_qlora.yaml", folder / "mine.yaml")
    return folder


def parse_only(script: str, options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a script and end it when it has read its options, if it has any."""
    source = (REPOSITORY / script).read_text(encoding="utf-8")
    assert not options or "ArgumentParser" in source
    if "ArgumentParser" not in source:
        return
    parse = ArgumentParser.parse_args

    def parse_and_end(parser: ArgumentParser) -> None:
        parse(parser)
        sys.exit(0)

    monkeypatch.setattr(ArgumentParser, "parse_args", parse_and_end)
    monkeypatch.setattr(sys, "argv", [script, *options])
    monkeypatch.syspath_prepend(str((REPOSITORY / script).parent))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(REPOSITORY / script), run_name="__main__")
    assert ended.value.code == 0


@pytest.mark.parametrize(("where", "line"), COMMANDS, ids=[f"{w}: {line[:60]}" for w, line in COMMANDS])
def test_every_documented_command_composes(
    command: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch, where: str, line: str
) -> None:
    monkeypatch.chdir(workplace)
    for part in re.sub(r"\s#.*", "", line).split(";"):
        # Variables of the environment, such as OMP_NUM_THREADS=2, may precede a command.
        words = list(dropwhile(re.compile(r"[A-Z_]+=").match, shlex.split(part)))
        match words:
            case ["make", target]:
                assert re.search(rf"^{target}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
            case ["source", ".venv/bin/activate"] | ["pip", "install", "-e", "."]:
                pass
            case ["cp", source, _]:
                assert (REPOSITORY / source).is_file()
            case ["python", script, *options] if script.endswith(".py"):
                parse_only(script, options, monkeypatch)
            case ["python" | "torchrun", *rest] if "finetune" in rest:
                rest = rest[rest.index("finetune") + 1 :]
                check = [] if "--help" in rest or "--cfg" in rest else ["--cfg", "job"]
                rest = [word for word in rest if word != "-m" and not re.search(r"=[\w.]+,\w", word)]
                code, out, err = command(*rest, *check)
                assert code == 0, err
                assert out
            case _:
                raise AssertionError(f"{where}: unknown command {part!r}")


def test_documents_and_recipes_have_commands() -> None:
    places = {where for where, _ in COMMANDS}
    assert {"README.md", "CONTRIBUTING.md"} <= places
    assert {f"{name}.yaml" for name in known_recipes()} <= places


def test_the_page_of_recipes_names_every_choice_of_every_group() -> None:
    text = (REPOSITORY / "docs/recipes.md").read_text()
    data = (REPOSITORY / "docs/data.md").read_text()
    # Its row links to the table of benchmarks, which names them.
    benchmarks = set(re.findall(r"^\| \[`(\w+)`\]\(#", data, re.MULTILINE))
    for group in GROUPS:
        row = re.search(rf"^\| `{group}` \|(.*)\|$", text, re.MULTILINE)
        assert row, group
        named = set(re.findall(r"`([\w-]+)`", re.sub(r"\([^)]*\)", "", row[1])))
        linked = benchmarks if "](data.md#benchmarks)" in row[1] else set()
        assert named | linked == set(group_choices(group)) - {"own"}


def test_the_page_of_recipes_has_every_recipe_as_its_header_says() -> None:
    text = (REPOSITORY / "docs/recipes.md").read_text(encoding="utf-8")
    for name, file in known_recipes().items():
        headline = file.read_text(encoding="utf-8").splitlines()[1].removeprefix("# ")
        assert f"| `{name}` | {headline} |" in text


@pytest.mark.slow
def test_the_readmes_python_runs(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    Image.new("RGB", (8, 8)).save("cat.jpg")
    (code,) = re.findall(
        r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    short = code.replace('"trainer.max_steps": 100', '"trainer.max_steps": 1, "evaluation.limit": 2')
    assert short != code
    names: dict[str, object] = {}
    exec(short, names)
    assert names["losses"]


@pytest.mark.slow
def test_the_python_of_the_page_about_using_a_result_runs(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace)
    Image.new("RGB", (8, 8)).save("cat.jpg")
    assert main(["merge", "run=runs/quickstart", "out=merged", "examples=2"]) == 0
    page = (REPOSITORY / "docs/use.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(code.replace("google/paligemma-3b-pt-224", str(TINY_BASE)), names)
    assert capsys.readouterr().out.endswith("[64, 48, 192, 240]\n")


DESIGN = (REPOSITORY / "docs/design.md").read_text(encoding="utf-8")


def test_the_design_page_says_who_may_import_whom() -> None:
    rows = re.findall(r"^\| (`.*) \| (.*) \|$", DESIGN.split("## Who may import whom")[1], re.MULTILINE)
    table = {
        part: set(re.findall(r"`(\w+)`", allowed))
        for parts, allowed in rows
        for part in re.findall(r"`(\w+)`", parts)
    }
    assert {part: table[part] for part in MAY_IMPORT} == MAY_IMPORT
    everywhere = re.search(r"^Every part may also import (.*?), and", DESIGN, re.MULTILINE)
    assert everywhere
    assert set(re.findall(r"`(\w+)`", everywhere[1])) == EVERYWHERE


def test_the_design_page_lists_every_file_and_folder_of_the_package() -> None:
    section = DESIGN.split("## Folders")[1].split("\n## ")[0]
    for path in PACKAGE.iterdir():
        if path.name not in {"__pycache__", "py.typed"}:
            assert f"{path.name}/" in section if path.is_dir() else path.name in section, path.name
    for path in re.findall(r"`finetune/([\w/]+\.?\w*)`", section):
        assert (PACKAGE / path).exists(), path


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), target


def headings(document: Path) -> set[str]:
    """Names that links give to the headings: lower case, hyphens for spaces, without other marks."""
    titles = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_to_sections_lead_to_headings(document: Path) -> None:
    for file, section in re.findall(
        r"\]\((?!http)([^)#]*)#([^)]+)\)", document.read_text(encoding="utf-8")
    ):
        assert section in headings(document.parent / file if file else document), section


@pytest.mark.parametrize("recipe", sorted(known_recipes()))
def test_a_recipes_header_says_what_it_needs_and_whose_values_it_has(recipe: str) -> None:
    header = known_recipes()[recipe].read_text().split("\ndefaults:")[0]
    assert header.startswith("# @package _global_\n# ")
    for part in ("Needs", "Values"):
        assert f"# {part} " in header
    assert f"recipe={recipe}" in header
