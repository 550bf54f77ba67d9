"""`--help`: the jobs, the recipes and, for one job, every option with the text under its field."""

import ast
import inspect
import sys
from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from finetune.config.choices import GROUP_SCHEMAS
from finetune.config.compose import group_choices, known_recipes
from finetune.config.jobs import JOBS, has_option, own_options
from finetune.config.schema import SPELLINGS, RunConfig
from finetune.option import limit_of

GROUPS = (
    "model", "dataset", "task", "augmentation", "collator", "freeze", "peft", "trainer", "evaluation",
    "metric", "tracker",
)  # fmt: skip


_DATA = (
    "data=FOLDER   (or a file, or a dataset's id on the Hub)",
    "    Short for dataset=NAME with its files, and the recipe for the kind of task. Format, splits and",
    "    columns are recognized, and the command that says the same is printed. Other options win.",
)


def first_comment(file: Path) -> str:
    """Return the first comment line of a YAML file that is not a Hydra directive."""
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and not line.startswith("# @"):
            return line.lstrip("# ").rstrip()
    return ""


def overview() -> str:
    """Return what `--help` prints: the jobs, and every recipe with one line."""
    jobs = {name: str(options.__doc__).rstrip(".") for name, options in JOBS.items()}
    recipes = {name: first_comment(file) for name, file in known_recipes().items()}
    return "\n".join(
        [
            "Fine-tune PaliGemma 1 and 2.",
            "",
            "python -m finetune [JOB] data=FOLDER [key=value ...]     your own data, recognized",
            "python -m finetune [JOB] recipe=NAME [key=value ...]     one run",
            "python -m finetune -m recipe=NAME key=a,b                a sweep",
            "python -m finetune JOB --help                            the options of a job",
            "python -m finetune recipe=NAME --cfg job                 the composed configuration",
            "",
            "Jobs",
            *_columns(jobs),
            "",
            "Recipes (or recipe=FILE.yaml, your own copy)",
            *_columns(recipes),
        ]
    )


def job_help(job: str, summary: str) -> str:
    """Return what `JOB --help` prints: the choices of its groups, then the options that it reads.

    Args:
        job: the job's name.
        summary: the job's docstring.
    """
    groups = [group for group in GROUPS if has_option(job, group)]
    bare = f"{JOBS[job].bare}/NAME ... " if JOBS[job].bare else ""
    lines = [f"python -m finetune {job} {bare}[key=value ...]", "", summary]
    lines += _section("Groups", _columns({group: ", ".join(group_choices(group)) for group in groups}))
    if has_option(job, "dataset"):
        lines += ["", *_DATA]
    names = own_options(job)
    of_job = [field for field in fields(JOBS[job]) if field.name in names]
    added = [line for field in of_job for line in _option(JOBS[job], field, "", indent=2)]
    lines += _section(f"Options of {job}", added)
    lines += ["", "Options of the run, from recipe= or by themselves"]
    lines += [line for field in fields(RunConfig) for line in _of_run(job, field)]
    return "\n".join(lines)


def _of_run(job: str, field: Field[Any]) -> Iterator[str]:
    """Yield the lines of an option of a recipe, or of a group of options, that a job reads."""
    if field.name not in GROUP_SCHEMAS:
        yield from _option(RunConfig, field, "", indent=2, job=job)
    elif has_option(job, field.name):
        for choice, choice_schema in GROUP_SCHEMAS[field.name].items():
            yield f"  with {field.name}={choice}:"
            yield from _options(choice_schema, f"{field.name}.", indent=4)


def _section(title: str, lines: list[str]) -> list[str]:
    """Return lines below a title; nothing if there are none."""
    return ["", title, *lines] if lines else []


def _columns(rows: dict[str, str]) -> list[str]:
    width = max(map(len, rows), default=0)
    return [f"  {name:<{width}}  {text}" for name, text in rows.items()]


def _options(owner: type, prefix: str, indent: int, job: str | None = None) -> list[str]:
    lines: list[str] = []
    for field in fields(owner):
        lines += _option(owner, field, prefix, indent, job)
    return lines


def _option(owner: type, field: Field[Any], prefix: str, indent: int, job: str | None = None) -> list[str]:
    """Return an option as `key=default (type)` and its text, a group as its options.

    Args:
        owner: the dataclass of the field.
        field: the option.
        prefix: key of the owner, with a dot after it.
        indent: number of spaces.
        job: leave out options that this job does not read; None: none.
    """
    if isinstance(field.type, type) and is_dataclass(field.type):
        return _options(field.type, f"{prefix}{field.name}.", indent, job)
    if job is not None and not has_option(job, f"{prefix}{field.name}"):
        return []
    default = field.default_factory() if callable(field.default_factory) else field.default
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
    names = {name: word for word, name in SPELLINGS.items()} if not prefix else {}
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
    """Return the string under each field of a dataclass of the schema, inherited ones included."""
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
