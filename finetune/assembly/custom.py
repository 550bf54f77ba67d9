"""Custom datasets, tasks and metrics: the function or class in `_target_`, called with the other values.

A recipe is data and may come from somebody else. Hydra's `instantiate` would call anything importable, such
as `os.system`; here only a function or class is called that is defined in a module written for finetune.
"""

import importlib
import inspect
import re
import sys
from collections.abc import Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from finetune.config.schema import RunConfig
from finetune.data.options import Mixture
from finetune.errors import UserError
from finetune.metrics.metric import Metric
from finetune.metrics.several import Several
from finetune.option import Builder
from finetune.tasks.objects import ObjectsOptions
from finetune.tasks.task import TaskOptions

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_IMPORTS_FINETUNE = re.compile(r"^\s*(from|import)\s+finetune\b", re.MULTILINE)

_NEEDED = {
    "task": ("check_columns", "build_text", "measure_text", "build_target", "read_answer"),
    "metric": ("score", "compute", "higher_is_better"),
}
"""Attributes that a part of each kind must have."""

_INSTALLED = {"site-packages", "dist-packages"}
"""Folders of installed packages; a module elsewhere is the user's."""


def instantiate(node: Any, kind: str | None = None) -> Any:
    """Return the part that a node of the config describes.

    Args:
        node: the part, or options that build it, for the shipped choices; a dictionary with `_target_` and
            its arguments for a custom part.
        kind: `task` or `metric`, to check its methods; None for a dataset, whose rows are checked on
            loading.

    Raises:
        UserError: the function or class does not exist, may not be called or takes other arguments, or its
            result is not a part of this kind.
    """
    if isinstance(node, Builder):
        return node.build()
    if not isinstance(node, dict):
        return node
    target = node.get("_target_")
    part = _call(target, {name: value for name, value in node.items() if name != "_target_"})
    missing = [f"`{name}`" for name in _NEEDED[kind] if not hasattr(part, name)] if kind else []
    if missing:
        raise UserError(
            f"_target_={target} is not a {kind}: it lacks {', '.join(missing)}. "
            f"finetune/{kind}s/{kind}.py describes what a {kind} has."
        )
    return part


def object_options(node: TaskOptions | dict[str, Any]) -> ObjectsOptions | None:
    """Return the options of boxes and masks that a task in the config has; a custom task has none."""
    return None if isinstance(node, dict) else node.object_options


def _call(target: Any, values: Mapping[str, Any]) -> Any:
    function = find_target(target)
    try:
        inspect.signature(function).bind(**values)
    except (ValueError, TypeError) as error:
        raise UserError(f"_target_={target} cannot be called: {error}") from error
    return function(**values)


def build_metric(config: RunConfig) -> Metric:
    """Build the metric, with the fields of those under `metrics` if there are any.

    Raises:
        UserError: see `instantiate`; or two metrics have a field of the same name.
    """
    main: Metric = instantiate(config.metric, "metric")
    others: dict[str, Metric] = {name: instantiate(node, "metric") for name, node in config.metrics.items()}
    return Several(main, others) if others else main


def check_targets(config: RunConfig) -> None:
    """Import the custom parts of a config, before anything is looked up or read.

    Raises:
        UserError: see `find_target`.
    """
    nodes = [config.dataset, config.task, config.metric, *config.metrics.values()]
    if isinstance(config.dataset, Mixture):
        for part in config.dataset.parts.values():
            nodes += [part.source, part.task]
    for node in nodes:
        if isinstance(node, dict):
            find_target(node.get("_target_"))


def find_target(target: Any) -> Any:
    """Return the function or class that `_target_` names.

    Args:
        target: `module.name`.

    Raises:
        UserError: it does not exist, or was not written to be a part.
    """
    if not isinstance(target, str) or not _NAME.fullmatch(target):
        raise UserError(f"_target_={target}: expected module.function or module.Class.")
    check_module(target)
    module_name, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
        function = getattr(module, name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"_target_={target} cannot be called: {error}") from error
    except (SyntaxError, ValueError) as error:
        raise UserError(f"_target_={target}: {module_name} cannot be imported ({error}).") from error
    # A name that the module only imported, such as `os.system`, is not a part of it.
    is_part = inspect.isclass(function) or inspect.isfunction(function)
    if not is_part or function.__module__ != module_name:
        raise UserError(
            f"_target_={target} cannot be called: expected a function or class that {module_name} itself "
            "defines."
        )
    return function


def check_module(target: str) -> None:
    """Check where a module is before it is imported: modules of Python and of other packages are refused.

    Importing runs the module's code, so that a check after the import would come too late.

    Args:
        target: `module.name`.

    Raises:
        UserError: the module is not the user's.
    """
    names = target.split(".")[:-1]
    if names[0] == "finetune":
        raise UserError(f"_target_={target} is not one of the shipped parts: choose them by name.")
    if names[0] in sys.stdlib_module_names or names[0] == "__main__":
        raise UserError(
            f"_target_={target} names a module of Python itself, which is not a part. If the file is "
            "yours, rename it."
        )
    file = _find_source(names)
    if file is None or _INSTALLED.isdisjoint(file.resolve().parts):
        return  # the import reports what is missing
    if not _IMPORTS_FINETUNE.search(file.read_text(encoding="utf-8", errors="replace")):
        raise UserError(
            f"_target_={target}: {file.name} of the installed package {names[0]} does not import finetune, "
            "so it was not written to be a part of a run."
        )


def _find_source(names: list[str]) -> Path | None:
    """Return a module's file without importing its packages; None if it does not exist."""
    search_path: list[str] | None = None
    origin: str | None = None
    for depth in range(len(names)):
        spec = PathFinder.find_spec(".".join(names[: depth + 1]), search_path)
        if spec is None:
            return None
        search_path, origin = list(spec.submodule_search_locations or []), spec.origin
    return None if origin is None else Path(origin)
