"""The rules of the house in docs/design.md, held to the code."""

import ast
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from transformers import TrainingArguments

from finetune.config.choices import GROUP_SCHEMAS
from finetune.config.extra import ALLOWED, OWNED, find_owner
from finetune.config.help import field_texts
from finetune.config.jobs import JOBS
from finetune.data.options import Part
from finetune.training.options import TrainerConfig
from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "finetune"
FILES = sorted(PACKAGE.rglob("*.py"))

EVERYWHERE = {"errors", "example", "hub", "option", "progress", "speed", "strict_json"}
MAY_IMPORT = {
    "errors": set(),
    "example": set(),
    "hub": set(),
    "option": set(),
    "speed": set(),
    "strict_json": set(),
    "signals": set(),
    "processes": set(),
    "progress": set(),
    "run": {"metrics", "report"},
    "codecs": set(),
    "config": {"data", "metrics", "tasks"},
    "metrics": {"codecs"},
    "doctor": {"data", "model"},
    "comparison": {"metrics", "report", "run"},
    "model": set(),
    "publish": {"config", "metrics", "report", "result", "run", "tasks"},
    "onnx": {"result"},
    "report": {"codecs"},
    "tasks": {"codecs", "metrics"},
    "data": {"codecs", "tasks", "signals"},
    "generation": {"codecs", "model", "tasks"},
    "evaluation": {"data", "generation", "metrics", "model", "processes", "signals", "tasks"},
    "training": {"data", "model", "evaluation", "processes", "run", "signals"},
    "assembly": {
        "codecs",
        "comparison",
        "config",
        "data",
        "evaluation",
        "generation",
        "metrics",
        "model",
        "processes",
        "publish",
        "report",
        "run",
        "tasks",
        "training",
    },
    "web": {"assembly", "codecs", "config", "data", "metrics", "report", "result", "run", "tasks"},
    "result": {"doctor", "metrics", "model"},
    "jobs": {
        "assembly",
        "codecs",
        "comparison",
        "config",
        "data",
        "web",
        "doctor",
        "evaluation",
        "generation",
        "metrics",
        "model",
        "onnx",
        "publish",
        "report",
        "processes",
        "result",
        "run",
        "signals",
        "tasks",
        "training",
    },
    "command": {"config", "run"},
    "sweep": {"command", "config", "publish"},
    "cli": {"command", "config", "result", "run", "signals", "sweep"},
    "call": {"command", "config", "run"},
    "api": {"assembly", "call", "onnx", "config", "publish", "result", "web", "run"},
    "__main__": {"cli"},
    "__init__": {"api"},
}
"""Parts of the package that each part may import, besides itself and `EVERYWHERE`."""

OPTIONS = {
    ".".join(("finetune", *file.relative_to(PACKAGE).with_suffix("").parts))
    for file in FILES
    if file.name == "options.py"
}
"""The parts' options, of which `config` composes a run: light, so that help answers without torch."""

HEAVY = {"torch", "transformers", "peft", "datasets", "accelerate", "bitsandbytes"}


def part_of(file: Path) -> str:
    inside = file.relative_to(PACKAGE)
    return inside.parts[0].removesuffix(".py")


def imports(file: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_part_imports_only_what_the_table_allows(file: Path) -> None:
    part = part_of(file)
    names = imports(file) - (OPTIONS if part == "config" else set())
    used = {name.split(".")[1] for name in names if name.startswith("finetune.")}
    assert used <= MAY_IMPORT[part] | EVERYWHERE | {part}


def test_the_table_names_every_part() -> None:
    assert {part_of(file) for file in FILES} == set(MAY_IMPORT)


LIGHT = ["api", "call", "cli", "command", "sweep", "config", "run", "signals", "errors", "metrics", "tasks"]


@pytest.mark.parametrize("part", LIGHT)
def test_light_parts_import_nothing_heavy_at_module_level(part: str) -> None:
    for file in FILES:
        if part_of(file) == part:
            roots = {name.split(".")[0] for name in imports(file, top_level_only=True)}
            assert not roots & HEAVY, file


def test_options_import_nothing_heavy_at_all() -> None:
    code = f"import sys, {', '.join(sorted(OPTIONS))}; print(*({HEAVY} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


MODEL_TYPES = {"nn.Module", "PreTrainedModel", "PaliGemmaForConditionalGeneration", "PeftModel"}
MODEL_NAMES = {"model", "learner", "adapted", "base_model"}
MODEL_INPUTS = {"input_ids", "pixel_values", "token_type_ids", "logits_to_keep", "past_key_values"}


def find_model_calls(source: str) -> list[int]:
    """Return the lines that call a model: by its name or annotation, by its inputs, or to generate."""
    tree = ast.parse(source)
    names = MODEL_NAMES | {
        node.arg if isinstance(node, ast.arg) else ast.unparse(node.target).rpartition(".")[2]
        for node in ast.walk(tree)
        if isinstance(node, ast.arg | ast.AnnAssign)
        and node.annotation is not None
        and MODEL_TYPES & set(re.findall(r"[\w.]+", ast.unparse(node.annotation)))
        and "Callable" not in ast.unparse(node.annotation)
    }
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func
            while isinstance(called, ast.Subscript):
                called = called.value
            name = ast.unparse(called).rpartition(".")[2]
            is_method = isinstance(called, ast.Attribute) and name in {"generate", "forward", "__call__"}
            keywords = {keyword.arg for keyword in node.keywords}
            if name in names or is_method or keywords & MODEL_INPUTS:
                lines.append(node.lineno)
    return lines


@pytest.mark.parametrize(
    "source",
    [
        "model(**batch)",
        "self.model(x)",
        "trainer.model(x)",
        "models[0].generate(x)",
        "model.forward(x)",
        "def f(anything: nn.Module): anything(x)",
        "def f(anything: 'nn.Module | None'): anything(x)",
        "class A:\n    net: PeftModel\n    def f(self): self.net(x)",
        "run(input_ids=ids)",
        "anything(**inputs, logits_to_keep=1)",
    ],
)
def test_a_call_of_a_model_is_found(source: str) -> None:
    assert find_model_calls(source)


@pytest.mark.parametrize(
    "source",
    [
        "def f(model: nn.Module): return model.parameters()",
        "compute_losses(model, batch)",
        "torch.no_grad()(tower.forward)",
        "def f(evaluate: Callable[[nn.Module], float]): evaluate(model)",
        "from a import model",
    ],
)
def test_what_is_no_call_of_a_model_is_not_found(source: str) -> None:
    assert not find_model_calls(source)


def test_the_model_is_called_in_one_file() -> None:
    callers = {
        str(file.relative_to(PACKAGE))
        for file in FILES
        # The mask VAE of `codecs` is a model of its own; no PaliGemma comes there.
        if part_of(file) != "codecs" and find_model_calls(file.read_text(encoding="utf-8"))
    }
    # Its modules are calls as they are exported: with caches as plain tensors.
    assert callers == {"model/forward.py", "onnx/graphs.py"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_files_and_functions_stay_short(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= 60, f"{node.name}: {lines}"


def test_the_median_file_is_short() -> None:
    lengths = sorted(len(file.read_text(encoding="utf-8").splitlines()) for file in FILES)
    assert lengths[len(lengths) // 2] <= 120


def test_folders_have_one_line_and_no_file_is_a_drawer() -> None:
    drawers = {"utils", "common", "helpers", "base", "misc"}
    for file in FILES:
        assert file.stem not in drawers
        if file.name == "__init__.py" and file.parent != PACKAGE:  # the package's own exports the API
            assert len(file.read_text(encoding="utf-8").splitlines()) == 1


def all_schemas() -> list[type]:
    """Every dataclass of options: those of jobs and groups, and those nested in them."""
    found: list[type] = []
    todo = [
        *JOBS.values(),
        Part,
        *(schema for choices in GROUP_SCHEMAS.values() for schema in choices.values()),
    ]
    while todo:
        schema = todo.pop()
        found.append(schema)
        todo += [
            kind for field in fields(schema) if is_dataclass(kind := field.type) and isinstance(kind, type)
        ]
    return found


def test_every_option_is_documented_under_its_field() -> None:
    """Groups of options are documented by their own class; dataset, task and metric by the choice."""
    for schema in all_schemas():
        for field in fields(schema):
            is_group = is_dataclass(field.type) or field.name in GROUP_SCHEMAS
            if not is_group and field.name != "_target_":
                assert field_texts(schema).get(field.name), f"{schema.__name__}.{field.name}"


def test_the_trainers_options_are_transformers_own() -> None:
    upstream = {field.name for field in fields(TrainingArguments)}
    ours = {"global_batch_size", "limit", "loss", "towers", "speed", "extra"}
    assert {field.name for field in fields(TrainerConfig)} - ours <= upstream
    assert set(OWNED) | set(ALLOWED) <= upstream
    assert {name for name in upstream if find_owner(name) is None} == set(ALLOWED)


def test_tests_lie_where_the_code_lies() -> None:
    for test in (REPOSITORY / "tests").rglob("test_*.py"):
        folder = test.parent.relative_to(REPOSITORY / "tests")
        assert (PACKAGE / folder).is_dir()
