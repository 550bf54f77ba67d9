"""The words of the command line: which are taken literally, and which are refused.

Hydra parses a value in its own grammar: `2024` is a number, `a,b` a sweep and `${seed}` another option. The
values of options that are texts in the schema are quoted here first, so that a file or a prompt with such
characters keeps them. See https://hydra.cc/docs/advanced/override_grammar/basic/.
"""

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from finetune.config.choices import GROUP_SCHEMAS
from finetune.config.compose import (
    add_recipe,
    escape_interpolation,
    group_choices,
    known_recipes,
    recipe_file,
)
from finetune.config.data_word import DATA
from finetune.config.help import GROUPS
from finetune.config.jobs import JOBS
from finetune.config.published import find_published, is_published
from finetune.config.schema import SPELLINGS
from finetune.config.secrets import find_secret_variables, find_secrets
from finetune.data.options import GROUP_OF_PART
from finetune.errors import UserError

SWEEP_FLAGS = {"-m", "--multirun"}
_FLAGS = {*SWEEP_FLAGS, "--resolve"}
_FLAGS_WITH_VALUE = {"--cfg", "-c", "--package", "-p", "--info", "-i", "--config-dir", "-cd"}

_PROMPT = "prefix"
"""The only text without a group that may be written in Hydra's grammar, for a sweep over prompts."""

_TEXT = (str, str | None)

_WORDS = r"true|false|yes|no|on|off|y|n|[01]|'.*'|\".*\""
_BOOLEANS, _BOOLEANS_OR_NULL = (
    re.compile(rf"(?i)(({words})(,|$))+|.*[(\[{{$].*") for words in (_WORDS, f"null|{_WORDS}")
)

_OPEN = re.compile(
    r"trainer\.extra|metrics(\.\w+)?|dataset\.((hub\.)?(columns|data_files)|options|parts)|dataset|task|metric"
)
"""Options to which names may be added, and from which they may be removed."""

_PART = re.compile(r"dataset\.parts\.[^.]+\.(source|task)\b")


def is_sweep(words: list[str]) -> bool:
    """Whether the words ask for a sweep."""
    return not SWEEP_FLAGS.isdisjoint(words)


def split_word(word: str) -> tuple[str, str]:
    """Return the key of a word, without a leading `+` or `~`, and its value."""
    key, _, value = word.partition("=")
    return key.lstrip("+~"), value


def split_flags(words: list[str]) -> tuple[list[str], list[str]]:
    """Divide the words into those that are `key=value`, and flags with their values.

    Raises:
        UserError: a flag is unknown.
    """
    typed: list[str] = []
    flags: list[str] = []
    is_value = False
    for word in words:
        is_flag = is_value or word.startswith("-")
        (flags if is_flag else typed).append(word)
        is_value = is_flag and not is_value and _check_flag(word)
    return typed, flags


def _check_flag(flag: str) -> bool:
    """Check a word that begins with a dash; return whether the next word is its value."""
    key, equals, _ = flag.partition("=")
    name = key.lstrip("-")
    if flag not in _FLAGS and key not in _FLAGS_WITH_VALUE:
        if name in {"recipe", DATA, *GROUPS, *(key for key in keys_of() if "." not in key), *SPELLINGS}:
            raise UserError(f"{flag}: options are written `key=value`, without dashes: {name}=NAME.")
        known = ", ".join(sorted({*_FLAGS, *_FLAGS_WITH_VALUE, "--help"}))
        raise UserError(f"No flag `{key}`. Options are written `key=value`; the flags are {known}.")
    return key in _FLAGS_WITH_VALUE and not equals


def name_bare_words(job: str, words: list[str]) -> list[str]:
    """Gather words without a key under the option of the job that takes them, if there is one.

    Args:
        job: its name.
        words: words as typed; an existing folder is one even if `=` is in its name.
    """
    option = JOBS[job].bare
    bare = [word for word in words if "=" not in word or Path(word).is_dir()] if option else []
    if not bare:
        return words
    return [word for word in words if word not in bare] + [f"{option}=[{','.join(map(quote, bare))}]"]


def check_words(words: list[str]) -> None:
    """Refuse invalid words, before anything is composed.

    Args:
        words: `key=value` words as typed.

    Raises:
        UserError: a word is not valid UTF-8, has no `=`, sets Hydra itself, repeats a key, contains a
            secret, or is not a boolean where it must be one.
    """
    given: dict[str, str] = {}
    for word in words:
        if any("\ud800" <= character <= "\udfff" for character in word):
            raise UserError(f"{word!a} is not valid UTF-8. Rename the file, or set a UTF-8 locale.")
        key, _ = split_word(word)
        if not key or ("=" not in word and not word.startswith("~")):
            raise UserError(f"Cannot read `{word}`. Expected `key=value`.")
        if key.split(".")[0] == "hydra" and not key.startswith(("hydra.launcher.", "hydra.sweeper.")):
            raise UserError(
                f"{key} cannot be set: a run's folder is runs_dir=FOLDER run_name=NAME, and of Hydra's own "
                "settings only hydra/launcher and hydra/sweeper may change."
            )
        if word.startswith("~") and not _OPEN.fullmatch(key.rpartition(".")[0]):
            raise UserError(f"{word}: only a key added with `+`, or a column's name, can be removed.")
        value = word.partition("=")[2]
        if key in keys_of(bool) and not _BOOLEANS.fullmatch(value):
            raise UserError(f"{word}: expected true or false.")
        if key in keys_of(bool | None) and not _BOOLEANS_OR_NULL.fullmatch(value):
            raise UserError(f"{word}: expected true, false or null.")
        for problem in (
            *find_secret_variables(word),
            *find_secrets({key: value}, keys_of()),
        ):
            raise UserError(problem)
        if key in given:
            raise UserError(f"{key} is given twice: {given[key]} and {word}. Keep one of them.")
        given[key] = word


@cache
def keys_of(*kinds: Any) -> frozenset[str]:
    """Return every option of the schema, of every choice of every group, whose type is one of `kinds`."""
    keys = {key for job in JOBS.values() for key in _keys_below(job, "", kinds)}
    for group, schemas in GROUP_SCHEMAS.items():
        for schema in schemas.values():
            keys |= set(_keys_below(schema, f"{group}.", kinds))
    return frozenset(keys)


def _keys_below(schema: type, prefix: str, kinds: tuple[Any, ...]) -> Iterator[str]:
    for field in fields(schema):
        kind: Any = field.type
        if isinstance(kind, type) and is_dataclass(kind):
            yield from _keys_below(kind, f"{prefix}{field.name}.", kinds)
        elif not kinds or kind in kinds:
            yield f"{prefix}{field.name}"


def _is_text(key: str) -> bool:
    part = _PART.match(key)
    if part:
        key = GROUP_OF_PART[part[1]] + key[part.end() :]
    return key in keys_of(*_TEXT) or ".columns." in key


def is_name(key: str) -> bool:
    """Whether a key without a group names a run, a file or a folder: which is always taken literally."""
    return "." not in key and key != _PROMPT and key in keys_of(*_TEXT)


def quote(text: str) -> str:
    """Quote a text so that neither Hydra's grammar nor an interpolation changes it."""
    text = escape_interpolation(text)
    # In Hydra's grammar a backslash is an escape only before a quote.
    escaped = re.sub(r"(\\*)('|$)", lambda end: end[1] * 2 + end[2].replace("'", "\\'"), text)
    return f"'{escaped}'"


def rewrite(word: str, is_sweep: bool = False) -> list[str]:
    """Translate a word into Hydra's grammar.

    Texts are quoted, so that they are taken literally; a prompt or a file of a dataset that is already
    quoted, `null` or, in a sweep, a list with commas is left to Hydra. `recipe=FILE.yaml` and `run=FOLDER`
    register a file as a recipe (a run's `config.yaml` is one); `model=ID_OR_FOLDER` is short for
    `model.path`.

    Raises:
        UserError: the folder is not a run, or the file is not a recipe.
    """
    key, value = split_word(word)
    if "=" not in word:
        return [word]
    sign = word[: word.index(key)]
    key = SPELLINGS.get(key, key)
    if key == "recipe":
        return [f"recipe={_recipes(value, is_sweep)}"]
    if key in {"run", "card"}:
        return [f"recipe={add_recipe(_run_config(key, value))}", f"{key}={quote(value)}"]
    if key == "model":
        return _model(value, is_sweep)
    if key == "metrics":
        return _metrics(value)
    if key == "tracker" and value.startswith("["):
        return _trackers(value)
    if key in GROUPS:
        # For a number or a list Hydra would report an error of its grammar, not of the choice.
        return [word if is_sweep and "," in value else f"{sign}{key}={quote(value)}"]
    if is_name(key) or (_is_text(key) and not _is_hydras(value, is_sweep)):
        return [f"{sign}{key}={quote(value)}"]
    return [word]


def _is_hydras(value: str, is_sweep: bool) -> bool:
    quoted = re.fullmatch(r"""(["']).*\1|null""", value, re.DOTALL)
    return bool(quoted) or (is_sweep and "," in value)


def _recipes(value: str, is_sweep: bool) -> str:
    """Return the registered name of a recipe, or in a sweep the names."""
    if is_sweep and "," in value and not Path(value).is_file():
        return ",".join(_recipes(part.strip(), is_sweep=False) for part in value.split(","))
    if value in known_recipes():
        return value
    file = Path(value)
    is_file_name = file.suffix in {".yaml", ".yml"} or "/" in value
    if file.is_dir() and (file / "config.yaml").is_file():
        raise UserError(f"recipe={value} is a folder. A run's recipe is recipe={file / 'config.yaml'}.")
    if file.is_dir() and is_file_name:
        raise UserError(f"recipe={value} is a folder. Expected a file, such as recipe=mine.yaml.")
    if is_file_name and file.exists():
        return add_recipe(file)
    return quote(value)


def _run_config(key: str, folder: str) -> Path:
    config = Path(folder) / "config.yaml"
    if not folder:
        raise UserError(f"{key}= is empty. Expected a run's folder, such as {key}=runs/quickstart.")
    if is_published(folder):
        config = find_published(folder, config.name)
    if not config.is_file():
        raise UserError(f"{folder} holds no run: there is no {config}. Runs are in runs/ by default.")
    return config


def _model(value: str, is_sweep: bool) -> list[str]:
    """Distinguish choices of the group from Hub ids and folders."""
    values = value.split(",") if is_sweep else [value]
    if all(_is_checkpoint(name) for name in values):
        return ["model=own", f"model.path={','.join(quote(name) for name in values)}"]
    return [f"model={value}" if is_sweep and len(values) > 1 else f"model={quote(value)}"]


def _metrics(value: str) -> list[str]:
    """Name each metric of a list by itself, in place of a recipe's; see `compose.register`.

    Raises:
        UserError: it is not a list of names.
    """
    names = re.fullmatch(r"\[\s*([^\W\d]\w*(?:\s*,\s*[^\W\d]\w*)*)?\s*\]|([^\W\d]\w*)", value)
    if names is None:
        raise UserError(f"metrics={value}: expected names in brackets, such as metrics=[exact_match,anls].")
    listed = re.findall(r"\w+", names[1] or names[2] or "")
    return [f"+metric@metrics.{name}={name}" for name in listed] or ["metrics={}"]


def _trackers(value: str) -> list[str]:
    """Name several trackers, in place of a choice of the group.

    Raises:
        UserError: it is not a list of names.
    """
    if not re.fullmatch(r"\[\s*(\w+(?:\s*,\s*\w+)*)?\s*\]", value):
        raise UserError(
            f"tracker={value}: expected names in brackets, such as tracker=[tensorboard,wandb]."
        )
    names = [name for name in re.findall(r"\w+", value) if name != "none"]
    return [f"tracker.names=[{','.join(names)}]"]


def _is_checkpoint(value: str) -> bool:
    """Whether a value names a Hub id or a folder, not a choice of the group."""
    if value in group_choices("model"):
        return False
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", value)) or Path(value).is_dir() or value[:1] in "./~"


def expand(words: list[str]) -> list[list[str]]:
    """Return the words of each run of a sweep, in the order of Hydra's basic sweeper.

    Args:
        words: words from `rewrite`.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    overrides = OverridesParser.create().parse_overrides(words)
    [members] = BasicSweeper.split_arguments(overrides, None)
    return members


def member_words(words: list[str], member: list[str]) -> list[str]:
    """Return the words as typed, with one run's values in place of the sweep's.

    Args:
        words: `key=value` words of the sweep as typed.
        member: overrides of the run, as `expand` returns them.
    """
    values = {split_word(word)[0]: word for word in member}
    member_line = []
    for word in words:
        new = rewrite(word, is_sweep=True)
        swept = [key for key in map(_swept_key, new) if key is not None]
        member_line += [values[split_word(part)[0]] for part in new] if swept else [word]
    return [_with_file(word) for word in member_line if not word.startswith(("hydra/", "hydra."))]


def _with_file(word: str) -> str:
    """Replace a registered recipe's name by its file."""
    key, value = split_word(word)
    file = recipe_file(value) if key == "recipe" else None
    return word if file is None else f"recipe={file}"


def _swept_key(word: str) -> str | None:
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:
        return None
    return override.get_key_element() if override.is_sweep_override() else None


def swept_values(words: list[str], member: list[str]) -> str:
    """Return what distinguishes one run of a sweep, such as `peft.r=2 seed=1`."""
    before = set(words)
    return " ".join(word for word in member_words(words, member) if word not in before)
