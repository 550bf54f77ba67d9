"""Hydra's and OmegaConf's errors in one sentence a user can act on."""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException, ValidationError

from finetune.config.choices import GROUP_SCHEMAS
from finetune.config.compose import group_choices, known_recipes, own_recipes, recipe_file
from finetune.config.help import field_texts
from finetune.config.recipe_file import find_line
from finetune.config.words import keys_of
from finetune.errors import suggest
from finetune.option import describe_values

_MOST_NAMED = 20
"""More names than this are not listed in a message; `--help` lists them."""

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
    "name_or_path": "path",
    "model_name_or_path": "model.path",
    "model_id": "model.path",
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
        return _explain_missing(str(error.missing_cfg_file))
    if isinstance(error, OverrideParseException):
        return _explain_unreadable(error)
    causes = (error, error.__cause__, error.__context__)
    cause = next((cause for cause in causes if isinstance(cause, OmegaConfBaseException)), None)
    key = str(cause.full_key or "") if cause is not None else ""
    message = _explain_word(str(error)) if cause is None or not key else _explain_option(cause, key)
    recipe = re.match(r"In 'recipe/([^']+)'", str(error))
    return f"{_place(recipe[1], key)}: {message}" if recipe else message


def _explain_word(text: str) -> str:
    """Report a word that is wrong whatever its option is."""
    first = re.sub(r"^In '[^']+': .*\n", "", text).splitlines()[0].rstrip(".")
    if first.startswith("Ambiguous value"):
        return f"{first}. Several values are a sweep: add `-m`; a list is written `key=[a,b]`."
    if appended := re.search(r"already at '([^']+)'", first):
        return f"{appended[1]} is an option already: leave the `+` out."
    if deleted := re.search(r"Could not delete from config\. '([^']+)'", first):
        return f"~{deleted[1]}: no such option to remove."
    return f"{first}."


def _explain_option(error: OmegaConfBaseException, key: str) -> str:
    """Report an unknown option, or a value of the wrong type."""
    schema: Any = error.object_type
    name = str(error.key)
    options = {field.name: field for field in fields(schema)} if is_dataclass(schema) else {}
    if name not in options and isinstance(error, AttributeError | KeyError):
        return _explain_unknown(key, name, schema, [*options])
    text = " ".join(field_texts(schema).get(name, "").split()) if options else ""
    if isinstance(error, ValidationError) and name in options:
        value = error.value
        members = [str(member) for member in getattr(options[name].type, "__members__", ())]
        remedy = f"expected {describe_values(options[name])}.{suggest(str(value), members)}"
        return f"{key}={spell(value)}: {remedy} {text}".rstrip()
    if isinstance(error, MissingMandatoryValue):
        return f"{key} is missing: {key}=VALUE. {text}".rstrip()
    first = str(error).splitlines()[0].rstrip(".")
    if first.startswith("Cannot merge"):
        first = "expected another kind of value: a list is [a,b], options in braces are {key: value}"
    elif "is not a subclass of Part" in first:
        first = f"the mixture has no part `{name}`. Add it in a recipe, with its source"
    return f"{key}: {first}. {text}".rstrip()


def spell(value: object) -> str:
    """Return a value as YAML has it, in at most 80 characters."""
    plain = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    text = json.dumps(plain, ensure_ascii=False, default=str).strip('"')
    return text if len(text) <= 80 else f"{text[:77]}..."


def _explain_unknown(key: str, name: str, schema: Any, known: list[str]) -> str:
    """Suggest an option: one of the same group, or of the same name in another."""
    group = key.rpartition(".")[0]
    if name == "_target_":
        return f"{key}: the choice sets it. For a custom part choose `custom`."
    if group == "metrics":
        return f"{key}: the run has no metric of that name. Add it by metrics=[{name}]."
    target = ALIASES.get(name, name)
    leaf = target.rpartition(".")[2]
    choices = GROUP_SCHEMAS.get(group, {})
    if key in keys_of() and (chosen := next((c for c, known in choices.items() if known is schema), None)):
        owners = [
            f"{group}={c}"
            for c, other in choices.items()
            if name in [field.name for field in fields(other)]
        ]
        return (
            f"`{key}` is set, but {group}={chosen} has no `{name}` (its keys are: {', '.join(known)}). It "
            f"is an option of {', '.join(owners)}. Choose another {group} or leave it out; of a recipe use "
            "a copy without that line."
        )
    paths = [path for path in [*keys_of(), *GROUP_SCHEMAS] if path == target or path.endswith(f".{target}")]
    near = f" Did you mean `{leaf}`?" if leaf in known else suggest(name, known)
    if paths and not (near and group):
        near = f" Did you mean `{min(paths, key=lambda path: (path.count('.'), path))}`?"
    return f"No option `{key}`.{near or ' The options there are: ' + ', '.join(known) + '.'}"


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


def _explain_missing(choice: str) -> str:
    """Report a missing choice with the known ones."""
    group, _, name = choice.partition("/")
    group = group.partition("@")[0]
    known = [*known_recipes()] if group == "recipe" else group_choices(group)
    names = list_known(group, known)
    if not name:
        return f"{group}= is empty. {names}"
    kind = "recipe" if group == "recipe" else f"choice of `{group}`"
    no_file = f" There is no file {name} either." if Path(name).suffix in {".yaml", ".yml"} else ""
    chosen = re.compile(rf"/{group}\b.*:\s*{re.escape(name)}\b")
    files = [file for file in own_recipes() if chosen.search(file.read_text(encoding="utf-8"))]
    place = f"{files[0]}: " if files else ""
    near = suggest(name, known, 3 if len(known) > _MOST_NAMED else 1)
    return f"{place}No {kind} `{name}`.{no_file}{near} {names}"


def list_known(group: str, known: Sequence[str]) -> str:
    """Return the names that there are, or the command that lists them if they are many."""
    kind = "recipes" if group == "recipe" else "choices"
    if len(known) <= _MOST_NAMED:
        return f"Known {kind}: {', '.join(known)}."
    job = "" if group == "recipe" else "train "
    return f"`python -m finetune {job}--help` lists the {len(known)} {kind}."
