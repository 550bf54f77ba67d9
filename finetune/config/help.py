"""`--help`: the jobs, the recipes and, for one job, every option with the text under its field."""

import ast
import inspect
import sys
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from finetune.config.choices import GROUP_SCHEMAS
from finetune.config.compose import group_choices, known_recipes
from finetune.config.schema import SPELLINGS, RunConfig
from finetune.option import limit_of

GROUPS = (
    "model", "dataset", "task", "augmentation", "collator", "freeze", "peft", "trainer", "evaluation",
    "metric", "tracker",
)  # fmt: skip


def first_comment(file: Path) -> str:
    """Return the first comment line of a YAML file that is not a directive of Hydra's."""
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and not line.startswith("# @"):
            return line.lstrip("# ").rstrip()
    return ""


def overview(jobs: dict[str, str]) -> str:
    """Return what `--help` prints.

    Args:
        jobs: name and one line of every job, the default one first.
    """
    recipes = {name: first_comment(file) for name, file in known_recipes().items()}
    return "\n".join(
        [
            "Fine-tune PaliGemma 1 and 2.",
            "",
            "python -m finetune [JOB] recipe=NAME [key=value ...]     one run",
            "python -m finetune -m recipe=NAME key=a,b                a sweep",
            "python -m finetune JOB --help                            every option",
            "python -m finetune recipe=NAME --cfg job                 the composed configuration",
            "",
            "Jobs",
            *_columns(jobs),
            "",
            "Recipes (or recipe=FILE.yaml, a copy of one's own)",
            *_columns(recipes),
        ]
    )


def job_help(name: str, summary: str) -> str:
    """Return what `JOB --help` prints: the choices of every group, then every option.

    Args:
        name: the job.
        summary: what it does.
    """
    lines = [f"python -m finetune {name} [key=value ...]", "", summary, "", "Groups"]
    lines += _columns({group: ", ".join(group_choices(group)) for group in GROUPS})
    lines += ["", "Options"]
    for field in fields(RunConfig):
        if field.name in GROUP_SCHEMAS:
            for choice, choice_schema in GROUP_SCHEMAS[field.name].items():
                lines += [f"  with {field.name}={choice}:"]
                lines += _options(choice_schema, f"{field.name}.", indent=4)
        else:
            lines += _option(RunConfig, field, "", indent=2)
    return "\n".join(lines)


def _columns(rows: dict[str, str]) -> list[str]:
    width = max(map(len, rows))
    return [f"  {name:<{width}}  {text}" for name, text in rows.items()]


def _options(owner: type, prefix: str, indent: int) -> list[str]:
    lines: list[str] = []
    for field in fields(owner):
        if field.name != "_target_":
            lines += _option(owner, field, prefix, indent)
    return lines


def _option(owner: type, field: Any, prefix: str, indent: int) -> list[str]:
    """One option as `key = default (type)` and its text; a group as its own options."""
    if isinstance(field.type, type) and is_dataclass(field.type):
        return _options(field.type, f"{prefix}{field.name}.", indent)
    default = field.default if field.default is not MISSING else field.default_factory()
    shown = "null" if default is None else "" if default == "???" else str(default)
    if isinstance(default, list):
        shown = "[" + ",".join(map(str, default)) + "]"
    kind = (
        "|".join(field.type)
        if isinstance(field.type, type) and issubclass(field.type, StrEnum)
        else getattr(field.type, "__name__", None) or str(field.type)
    )
    pad = " " * indent
    limits = limit_of(field) if _is_number(field.type) else None
    kind = f"{kind}, {limits}" if limits else kind
    names = {name: word for word, name in SPELLINGS.items()} if owner is RunConfig else {}
    lines = [
        f"{pad}{prefix}{names.get(field.name, field.name)}={shown}   ({kind})".replace("(Optional)", "")
    ]
    text = field_texts(owner).get(field.name, "")
    return lines + [f"{pad}    {line.strip()}" for line in text.splitlines()]


def _is_number(kind: Any) -> bool:
    return not {int, float}.isdisjoint({kind, *getattr(kind, "__args__", ())})


@cache
def _parse(module: str) -> ast.Module:
    return ast.parse(inspect.getsource(sys.modules[module]))


def field_texts(owner: type) -> dict[str, str]:
    """Return the string under each field of a dataclass of the schema, those it inherits among them."""
    texts: dict[str, str] = {}
    for schema in reversed(owner.__mro__[:-1]):
        for node in _parse(schema.__module__).body:
            if isinstance(node, ast.ClassDef) and node.name == schema.__name__:
                texts |= _texts_of(node)
    return texts


def _texts_of(node: ast.ClassDef) -> dict[str, str]:
    return {
        above.target.id: below.value.value
        for above, below in zip(node.body, node.body[1:], strict=False)
        if isinstance(above, ast.AnnAssign)
        and isinstance(above.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }
