"""Hydra's and OmegaConf's errors in one sentence a user can act on."""

import re
import shlex
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from finetune.config.choices import GROUP_SCHEMAS
from finetune.config.compose import group_choices, known_recipes
from finetune.config.help import field_texts
from finetune.config.schema import RunConfig
from finetune.errors import suggest


def explain(error: HydraException | OmegaConfBaseException) -> str:
    """Turn a composition error into a message that names the key and the remedy."""
    if isinstance(error, MissingConfigException):
        return _explain_missing(str(error))
    if isinstance(error, OverrideParseException):
        return _explain_unreadable(error)
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    text = str(cause)
    first = text.splitlines()[0]
    found = re.search(r"full_key: (\S+)", text)
    key = found.group(1) if found else ""
    if unknown := re.match(r"Key '(\w+)' (?:is )?not in '(\w+)'", first):
        known = _known_keys(unknown.group(2))
        near = suggest(unknown.group(1), known) or f" Its keys are: {', '.join(known)}."
        return f"{first} ({key}).{near}" if "." in key else f"{first}.{near}"
    if "Ambiguous value" in text:
        return f"{first}. Several values are a sweep: add `-m`; a list is written `key=[a,b]`."
    if isinstance(error, HydraException) and cause is error:
        return text
    return f"{key}: {first}. {_text_of(text, key)}".strip() if key else first


def _explain_unreadable(error: OverrideParseException) -> str:
    """Tell of a word that Hydra's grammar lacks: mostly a text that needs quotes of its own."""
    key, _, value = error.override.partition("=")
    message = f"Cannot read `{error.override}`: {str(error).splitlines()[0]}."
    if not value:
        return f"{message} Expected `key=value`."
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    quoted = shlex.quote(f'{key}="{escaped}"')
    return f"{message} A text with brackets, braces or colons needs quotes of its own: {quoted}"


def _explain_missing(text: str) -> str:
    """`Could not find 'group/choice'`: name the choices there are."""
    found = re.search(r"Could not (?:find|load) '([\w@:.]+)/([^']+)'", text)
    if not found:
        return text.splitlines()[0]
    group, name = found.groups()
    known = sorted(known_recipes()) if group == "recipe" else group_choices(group)
    kind = "recipe" if group == "recipe" else f"choice of `{group}`"
    known_kind = "recipes" if group == "recipe" else "choices"
    own = f" There is no file {name} either." if Path(name).suffix in {".yaml", ".yml"} else ""
    return f"No {kind} `{name}`.{own}{suggest(name, known)} Known {known_kind}: {', '.join(known)}."


def _known_keys(schema_name: str) -> list[str]:
    """Field names of the dataclass that OmegaConf named."""
    for schema in _schemas(RunConfig):
        if schema.__name__ == schema_name:
            return [field.name for field in fields(schema)]
    return []


def _text_of(text: str, key: str) -> str:
    """Return the documentation of the option that was given a wrong value."""
    owner = re.search(r"object_type=(\w+)", text)
    name = key.rpartition(".")[2]
    for schema in _schemas(RunConfig):
        if owner and schema.__name__ == owner.group(1):
            return " ".join(field_texts(schema).get(name, "").split())
    return ""


def _schemas(root: type) -> list[Any]:
    """Every dataclass that the root's fields reach, and those of the groups."""
    found: list[Any] = [root]
    for field in fields(root):
        if isinstance(field.type, type) and is_dataclass(field.type):
            found += _schemas(field.type)
    if root is RunConfig:
        for choices in GROUP_SCHEMAS.values():
            for schema in choices.values():
                found += _schemas(schema)
    return found
