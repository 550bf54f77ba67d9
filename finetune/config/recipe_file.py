"""Reading a recipe file: a YAML mapping of the options of a run, and nothing that runs code.

A recipe is data, because it may come from somebody else, as any run's `config.yaml` may. Hydra's settings
could name callables in it, and an alias could expand to billions of values; both are refused. Each mistake
is reported with file and line.
"""

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_yaml_loader
from omegaconf.errors import OmegaConfBaseException

from finetune.config.choices import GROUP_SCHEMAS
from finetune.config.former_parts import drop_former_targets
from finetune.config.jobs import JOBS, own_options
from finetune.config.schema import RunConfig
from finetune.config.secrets import find_secret_variables
from finetune.errors import UserError, suggest

_MOST_VALUES = 100_000
"""Most values of a recipe with its aliases expanded; the longest list of classes has some thousands."""

_MOST_BYTES = 4 << 20

_OF_RUN = [field.name for field in fields(RunConfig)]

_GROUPS = [
    field.name for field in fields(RunConfig) if is_dataclass(field.type) or field.name in GROUP_SCHEMAS
]

_DEFAULT = re.compile(
    r"override /(\w+)|/(dataset|task)@dataset\.parts\.[^.\s]+\.(source|task)|/metric@metrics\.[^.\s]+"
)
"""Entries of a recipe's defaults list: a choice of a group, a part of a mixture, or one more metric."""


def load_recipe(file: Path) -> DictConfig:
    """Read a recipe.

    Raises:
        UserError: it cannot be read, is not YAML, or has a key that is not an option of a run.
    """
    root = _parse(file)
    if root is None or not isinstance(root, yaml.MappingNode):
        fault = "is empty" if root is None else f"line {_line(root)}: expected `key: value`"
        raise UserError(f"{file}: {fault}. A recipe is a mapping of options; copy one from recipes/.")
    _check_size(file, root)
    _check_keys(file, root)
    for problem in find_secret_variables(file.read_text(encoding="utf-8-sig")):
        raise UserError(f"{file}: {problem}")
    try:
        values = get_yaml_loader()("").construct_document(root)
        drop_former_targets(values)
        config = OmegaConf.create(values)
    except yaml.YAMLError as error:
        raise UserError(f"{file}{_where(error)}") from error
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise UserError(f"{file}: {str(error).splitlines()[0]}") from error
    return cast(DictConfig, config)


def find_line(file: Path, key: str) -> int | None:
    """Return the line of a nested key such as `trainer.learning_rate`, from 1; None if it is not set."""
    node: Any = _parse(file)
    line = None
    for name in key.split("."):
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        line, node = next(((_line(k), v) for k, v in pairs if k.value == name), (None, None))
    return line


def _parse(file: Path) -> yaml.Node | None:
    """Return the file's YAML nodes, before any object is constructed from them."""
    try:
        if not file.is_file():
            raise UserError(f"{file} is not a file. Expected a recipe, such as recipe=mine.yaml.")
        if file.stat().st_size > _MOST_BYTES:
            raise UserError(f"{file} has more than {_MOST_BYTES >> 20} MiB: this is not a recipe.")
        text = file.read_bytes().decode("utf-8-sig")
        return yaml.compose(text, Loader=get_yaml_loader())
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 (byte {error.start}). Save it as UTF-8.") from error
    except yaml.YAMLError as error:
        raise UserError(f"{file}{_where(error)}") from error
    except RecursionError as error:
        raise UserError(f"{file} is nested too deeply to be a recipe.") from error


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _where(error: yaml.YAMLError) -> str:
    """Return ` line N: PROBLEM`."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    if "'\\t'" in problem:
        problem = "indented with a tab; YAML wants spaces"
    line = f" line {mark.line + 1}" if mark is not None else ""
    return f"{line}: not valid YAML ({problem})."


def _check_size(file: Path, root: yaml.Node) -> None:
    """Count the values that the file has with its aliases expanded, without expanding them."""
    counted: dict[int, int] = {}
    open_nodes: set[int] = set()

    def count(node: yaml.Node) -> int:
        if id(node) in open_nodes:
            raise UserError(f"{file} line {_line(node)}: an alias refers to a node that contains it.")
        if id(node) not in counted:
            open_nodes.add(id(node))
            counted[id(node)] = 1 + sum(count(child) for child in _children(node))
            open_nodes.remove(id(node))
        return counted[id(node)]

    try:
        size = count(root)
    except RecursionError as error:
        raise UserError(f"{file} is nested too deeply to be a recipe.") from error
    if size > _MOST_VALUES:
        raise UserError(
            f"{file} has more than {_MOST_VALUES:,} values with its aliases: this is not a recipe."
        )


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _check_keys(file: Path, root: yaml.MappingNode) -> None:
    """Check the keys at the top, and the entries of the defaults list."""
    known = [*_OF_RUN, *dict.fromkeys(name for job in JOBS for name in own_options(job))]
    seen: dict[str, int] = {}
    for key, value in root.value:
        name, line = str(key.value), _line(key)
        if name == "defaults":
            _check_defaults(file, value)
        elif name not in known:
            raise UserError(
                f"{file} line {line}: `{name}` is not an option of a run."
                f"{suggest(name, known) or ' The options at the top are: ' + ', '.join(known) + '.'}"
            )
        if name in seen:
            raise UserError(f"{file} line {line}: `{name}` is also set in line {seen[name]}. Keep one.")
        seen[name] = line
    _check_groups(file, root, RunConfig, "")


def _check_groups(file: Path, node: yaml.MappingNode, schema: Any, prefix: str) -> None:
    """Check that each group of options is a mapping, also one inside another."""
    schemas = {field.name: field.type for field in fields(schema)}
    for key, value in node.value:
        name = str(key.value)
        is_group = is_dataclass(schemas.get(name)) or (not prefix and name in GROUP_SCHEMAS)
        if not is_group or value.tag == "tag:yaml.org,2002:null":
            continue
        if not isinstance(value, yaml.MappingNode):
            choose = "" if prefix else f" A choice is `- override /{name}: NAME` in defaults."
            raise UserError(
                f"{file} line {_line(key)}: expected options, `key: value`, under `{prefix}{name}`.{choose}"
            )
        if is_dataclass(schemas[name]):
            _check_groups(file, value, schemas[name], f"{prefix}{name}.")


def _check_defaults(file: Path, node: yaml.Node) -> None:
    """Check that the defaults list chooses among the groups of a run, and nothing else."""
    entries = node.value if isinstance(node, yaml.SequenceNode) else [node]
    # `override hydra/launcher` or a package `@hydra...` would change settings whose `_target_` Hydra calls.
    for entry in entries:
        if isinstance(entry, yaml.ScalarNode) and entry.value == "_self_":
            continue
        pairs = entry.value if isinstance(entry, yaml.MappingNode) else []
        matches = [_DEFAULT.fullmatch(str(key.value)) for key, _ in pairs]
        values = [value for _, value in pairs]
        is_choice = len(pairs) == 1 and isinstance(values[0], yaml.ScalarNode) and matches[0] is not None
        if not is_choice or not re.fullmatch(r"[\w-]+", str(values[0].value)):
            raise UserError(
                f"{file} line {_line(entry)}: expected `- override /GROUP: CHOICE` in defaults, where "
                f"GROUP is one of {', '.join(_GROUPS)}."
            )
        group = matches[0] and matches[0][1]
        if group is not None and group not in _GROUPS:
            raise UserError(
                f"{file} line {_line(entry)}: no group `{group}`.{suggest(group, _GROUPS)} "
                f"The groups are: {', '.join(_GROUPS)}."
            )
