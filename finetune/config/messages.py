"""Hydra's and OmegaConf's errors in one sentence a user can act on."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from finetune.config.choices import GROUP_SCHEMAS
from finetune.config.compose import group_choices, known_recipes, own_recipes, recipe_file
from finetune.config.help import field_texts
from finetune.config.jobs import JOBS
from finetune.config.recipe_file import find_line
from finetune.config.schema import RunConfig
from finetune.config.words import keys_of
from finetune.data.options import Part
from finetune.errors import suggest

_ROOTS = {job.__name__ for job in JOBS.values()}

ALIASES = {
    "lr": "learning_rate",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "steps": "max_steps",
    "bs": "global_batch_size",
    "batch_size": "global_batch_size",
    "train_batch_size": "per_device_train_batch_size",
    "accumulation": "gradient_accumulation_steps",
    "gradient_accumulation": "gradient_accumulation_steps",
    "grad_accum": "gradient_accumulation_steps",
    "warmup": "warmup_steps",
    "warmup_ratio": "warmup_steps",
    "wd": "weight_decay",
    "scheduler": "lr_scheduler_type",
    "lr_scheduler": "lr_scheduler_type",
    "optimizer": "optim",
    "clip": "max_grad_norm",
    "workers": "dataloader_num_workers",
    "num_workers": "dataloader_num_workers",
    "gradient_checkpointing": "activation_checkpointing",
    "eval_steps": "evaluation.steps",
    "eval_batch_size": "evaluation.batch_size",
    "max_tokens": "max_new_tokens",
    "max_length": "max_text_length",
    "max_seq_length": "max_text_length",
    "beams": "num_beams",
    "rank": "peft.r",
    "lora_r": "peft.r",
    "lora_rank": "peft.r",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "quantization": "peft.bits",
    "load_in_4bit": "peft.bits",
    "image_size": "model.resolution",
    "name": "run_name",
    "output_dir": "runs_dir",
    "output": "runs_dir",
    "data": "dataset",
    "val": "dataset.validation",
    "question": "prefix",
    "wandb": "tracker",
}
"""Names in other programs -> ours."""


def explain(error: HydraException | OmegaConfBaseException) -> str:
    """Return a message for a composition error that names the key and the remedy."""
    if isinstance(error, MissingConfigException):
        return _explain_missing(str(error))
    if isinstance(error, OverrideParseException):
        return _explain_unreadable(error)
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    text = str(cause)
    where = re.match(r"In 'recipe/([^']+)': .*raised while composing config:\n", text)
    body = text[where.end() :] if where else re.sub(r"^In '[^']+': .*\n", "", text)
    full_key = re.search(r"full_key: (\S+)", body)
    key = full_key.group(1) if full_key else ""
    message = _explain_body(body, key)
    if not where:
        return message
    place = _place(where.group(1), key)
    lacks = re.match(r"Key '[^']+' (?:is )?not in '(\w+)'", body)
    return (lacks and _explain_choice(place, key, lacks[1])) or f"{place}: {message}"


def _explain_body(text: str, key: str) -> str:
    first = text.splitlines()[0].rstrip(".")
    if first.startswith("Ambiguous value"):
        return f"{first}. Several values are a sweep: add `-m`; a list is written `key=[a,b]`."
    if unknown := re.match(r"Key '([^']+)' (?:is )?not in '(\w+)'", first):
        return _explain_unknown(first, key, *unknown.groups())
    if appended := re.search(r"already at '([^']+)'", first):
        return f"{appended[1]} is an option already: leave the `+` out."
    if deleted := re.search(r"Could not delete from config\. '([^']+)'", first):
        return f"~{deleted[1]}: no such option to remove."
    if merged := re.match(r"Merge error: (\w+) is not a subclass of (\w+)", first):
        return f"expected options, `key: value`, for {_group_of(merged[2])}, but got a {merged[1]}."
    if missing := re.search(r"missing mandatory value: (\w+)", first):
        return f"{key or missing[1]} is missing: {key or missing[1]}=VALUE. {_text_of(text, key)}".strip()
    if key:
        return f"{key}: {first}. {_text_of(text, key)}".strip()
    return f"{first}."


def _explain_unknown(first: str, key: str, name: str, schema: str) -> str:
    """Suggest an option: one of the same group, or of the same name in another."""
    known = _known_keys(schema)
    if name == "_target_":
        return f"{key}: the choice sets it. For a custom part choose `custom`."
    target = ALIASES.get(name, name)
    if schema in _ROOTS:
        first = f"No option `{name}`"
        options = [*keys_of(), *GROUP_SCHEMAS]
        places = [path for path in options if path == target or path.endswith(f".{target}")]
        if places:
            return f"{first}. Did you mean `{min(places, key=lambda path: (path.count('.'), path))}`?"
    if target.rpartition(".")[2] in known:
        return f"{first} ({key}). Did you mean `{target.rpartition('.')[2]}`?"
    near = suggest(name, known) or f" Its keys are: {', '.join(known)}."
    return f"{first} ({key}).{near}" if "." in key else f"{first}.{near}"


def _explain_choice(where: str, key: str, schema: str) -> str | None:
    """Report a recipe's option that the chosen dataset, task or metric lacks but another has."""
    group, _, name = key.partition(".")
    for choice, known in GROUP_SCHEMAS.get(group, {}).items():
        if known.__name__ == schema and key in keys_of():
            keys = ", ".join(_known_keys(schema))
            return (
                f"{where}: `{key}` is set, but {group}={choice} has no `{name}` (its keys are: {keys}). "
                f"Choose another {group}, or a copy of the recipe without that line."
            )
    return None


def _place(choice: str, key: str) -> str:
    """Return a recipe's file, and the line of a key in it."""
    file = recipe_file(choice) or known_recipes().get(choice)
    if file is None:
        return f"recipe={choice}"
    line = find_line(file, key) if key else None
    return f"{file} line {line}" if line else str(file)


def _explain_unreadable(error: OverrideParseException) -> str:
    """Report a word that Hydra cannot parse, mostly a text that needs quotes of its own."""
    key, _, value = error.override.partition("=")
    message = f"Cannot read `{error.override}`: {str(error).splitlines()[0]}."
    if not value:
        return f"{message} Expected `key=value`."
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    quoted = shlex.quote(f'{key}="{escaped}"')
    return f"{message} A text with brackets, braces or colons needs quotes of its own: {quoted}"


def _explain_missing(text: str) -> str:
    """Report a missing choice (`Could not find 'group/choice'`) with the known ones."""
    missing = re.search(r"Could not (?:find|load) '([\w@:.]+)/([^']+)'", text)
    if not missing:
        return text.splitlines()[0]
    group, name = missing.groups()
    known = sorted(known_recipes()) if group == "recipe" else group_choices(group)
    kind = "recipe" if group == "recipe" else f"choice of `{group}`"
    known_kind = "recipes" if group == "recipe" else "choices"
    no_file = f" There is no file {name} either." if Path(name).suffix in {".yaml", ".yml"} else ""
    chosen = re.compile(rf"/{group}\b.*:\s*{re.escape(name)}\b")
    files = [file for file in own_recipes() if chosen.search(file.read_text(encoding="utf-8"))]
    place = f"{files[0]}: " if files else ""
    return (
        f"{place}No {kind} `{name}`.{no_file}{suggest(name, known)} Known {known_kind}: {', '.join(known)}."
    )


def _paths(schema: type, prefix: str) -> Iterator[str]:
    """Yield the key of every field below a dataclass, groups included."""
    for field in fields(schema):
        yield f"{prefix}{field.name}"
        if isinstance(field.type, type) and is_dataclass(field.type):
            yield from _paths(field.type, f"{prefix}{field.name}.")


def _known_keys(schema_name: str) -> list[str]:
    """Return the field names of a dataclass, by the class name in OmegaConf's message."""
    for schema in all_schemas():
        if schema.__name__ == schema_name:
            return [field.name for field in fields(schema)]
    return []


def _group_of(schema_name: str) -> str:
    """Return the key of the group that a dataclass of the schema describes."""
    for path in _paths(RunConfig, ""):
        kind: Any = RunConfig
        for name in path.split("."):
            kind = {field.name: field.type for field in fields(kind)}[name]
        if getattr(kind, "__name__", "") == schema_name:
            return path
    return schema_name


def _text_of(text: str, key: str) -> str:
    """Return the documentation of an option with an invalid value."""
    owner = re.search(r"object_type=(\w+)", text)
    name = key.rpartition(".")[2]
    for schema in all_schemas():
        if owner and schema.__name__ == owner.group(1):
            return " ".join(field_texts(schema).get(name, "").split())
    return ""


def all_schemas() -> list[Any]:
    """Return every dataclass of options: those of jobs and groups, and those nested in them."""
    roots: list[type] = [*JOBS.values(), Part]
    roots += [schema for choices in GROUP_SCHEMAS.values() for schema in choices.values()]
    return list(dict.fromkeys(schema for root in roots for schema in _nested(root)))


def _nested(schema: type) -> Iterator[type]:
    yield schema
    for field in fields(schema):
        if isinstance(field.type, type) and is_dataclass(field.type):
            yield from _nested(field.type)
