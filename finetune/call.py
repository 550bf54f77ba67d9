"""One command called from a program: the words for Python values, and nothing else of the program changed.

Logging, signal handlers, environment and Hydra's global state belong to the caller: a run restores what it
changes of them when it ends.
"""

import importlib
import logging
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from hydra.errors import HydraException
from omegaconf.basecontainer import BaseContainer
from omegaconf.errors import OmegaConfBaseException

from finetune.command import compose_command, read_line
from finetune.config.compose import forget_own_recipes
from finetune.config.data_word import DATA
from finetune.config.help import GROUPS
from finetune.config.job import Job
from finetune.config.messages import explain
from finetune.config.words import is_name, keys_of, quote
from finetune.errors import UserError, describe
from finetune.run.folder import Launch
from finetune.run.log import unchanged_logging

log = logging.getLogger(__name__)

_AS_WRITTEN = {"recipe", "image", "model", DATA, *GROUPS}
"""Keys whose values are names, which the command line quotes."""

_OF_LIBRARIES = ("ACCELERATE_", "KMP_", "TORCHINDUCTOR_")
"""Prefixes of environment variables that transformers' Trainer, scikit-learn and torch set."""


def run_job(job: str, words: Sequence[str], options: Mapping[str, object], **inputs: object) -> object:
    """Compose, check and run a job, and return its result.

    Args:
        job: its name.
        words: `key=value`, as on the command line.
        options: values by key.
        inputs: what only a program can give, such as open images.

    Raises:
        UserError: a mistake in the options or the data.
    """
    with undisturbed():
        job_options, launch = prepare_job(job, words, options)
        importlib.import_module("finetune.assembly.custom").check_targets(job_options)
        module = importlib.import_module(f"finetune.jobs.{job}")
        with without_bars():
            result: Any = module.run(job_options, launch, **inputs)
            # Inside the block: `predict` generates rows while they are iterated.
            if job == "predict":
                return replace(result, rows=list(result.rows))
        # The program may change its folder before it reads the rows.
        paths = {name: path.absolute() for name, path in vars(result).items() if isinstance(path, Path)}
        return replace(result, **paths)


def prepare_job(job: str, words: Sequence[str], options: Mapping[str, object]) -> tuple[Job, Launch]:
    """Compose and check the options as the command line does."""
    texts = [*words, *(text for key, value in options.items() for text in to_words(key, value))]
    for word in texts:
        if word.startswith("-"):
            raise UserError(f"{word} is a flag of the command line. For a sweep, call once for each value.")
    with _separate_hydra():
        try:
            forget_own_recipes()
            line = read_line(job, texts)
            if line.recognized is not None:
                log.info("%s", line.recognized)
            names = [f"{key}=null" for key, value in options.items() if value is None and is_name(key)]
            return compose_command(job, [*line.overrides, *names]).prepare(line.words)
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(explain(error)) from error


def to_words(key: str, value: object) -> list[str]:
    """Return the words of the command line for a Python value.

    Args:
        key: an option such as `seed` or `peft.r`, or a group of options for a dict.
        value: None, a number, a text, a path, an enumeration member, or a list or dict of these.

    Raises:
        UserError: the command line cannot express the value.
    """
    if key == "metrics":
        return _name_metrics(value)
    if key == "tracker" and isinstance(value, list | tuple):
        return [f"tracker=[{','.join(map(str, value))}]"]
    if isinstance(value, Mapping):
        if key in keys_of() and key not in GROUPS:  # the option itself is a dict, which may get more names
            return [f"++{key}={_spell(key, value)}"]
        return [word for name, item in value.items() for word in to_words(f"{key}.{name}", item)]
    is_text = key in keys_of(str, str | None)
    if value is None and (is_name(key) or key in {"recipe", "image"}):
        return []
    if is_text and isinstance(value, list | tuple | set):
        raise UserError(f"{key}: expected a text, but got {describe(value)}.")
    if key in _AS_WRITTEN or is_name(key):
        return [f"{key}={value.value if isinstance(value, Enum) else value}"]
    return [f"{key}={_spell(key, value)}"]


def _name_metrics(value: object) -> list[str]:
    """Return the words for a list of metrics, or for a dict of metrics with their options."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        return [f"metrics={value}"]
    words = [f"metrics=[{','.join(map(str, value))}]"]
    options = value.items() if isinstance(value, Mapping) else ()
    return words + [word for name, items in options for word in to_words(f"metrics.{name}", items)]


def _spell(key: str, value: object) -> str:
    """Return a value in Hydra's grammar."""
    if isinstance(value, Enum):
        value = value.value
    if hasattr(value, "item"):  # a NumPy or torch scalar
        value = value.item()
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        return quote(str(value))
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{_spell(key, item)}" for name, item in value.items()) + "}"
    if isinstance(value, Iterable):
        return "[" + ",".join(_spell(key, item) for item in value) + "]"
    raise UserError(
        f"{key}: expected a number, a text, or a list or dict of these, but got {describe(value)}."
    )


@contextmanager
def undisturbed() -> Iterator[None]:
    """Restore what a run changes in this process: our logger, random states, variables of libraries."""

    def read_variables() -> dict[str, str]:
        return {name: text for name, text in os.environ.items() if name.startswith(_OF_LIBRARIES)}

    before = read_variables()
    restore_random_states = _keep_random_states()
    kernels = logging.getLogger("bitsandbytes")  # warns of a CPU kernel that nobody needs
    level = kernels.level
    try:
        with unchanged_logging(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            kernels.setLevel(logging.ERROR)
            yield
    finally:
        kernels.setLevel(level)
        restore_random_states()
        for name in read_variables().keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def _keep_random_states() -> Callable[[], None]:
    """Return a function that restores the random states: a training seeds those of the whole process."""
    python = random.getstate()
    numpy = sys.modules["numpy"].random.get_state() if "numpy" in sys.modules else None
    torch = sys.modules["torch"].get_rng_state() if "torch" in sys.modules else None

    def restore() -> None:
        random.setstate(python)
        if numpy is not None:
            sys.modules["numpy"].random.set_state(numpy)
        if torch is not None:
            sys.modules["torch"].set_rng_state(torch)

    return restore


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep the bar over the weights that transformers loads off the caller's standard error meanwhile."""
    library = sys.modules.get("transformers")  # `score` has not imported it
    if library is None or not library.utils.logging.is_progress_bar_enabled():
        yield
        return
    library.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        library.utils.logging.enable_progress_bar()


@contextmanager
def _separate_hydra() -> Iterator[None]:
    """Compose in copies of Hydra's singletons and OmegaConf's resolvers: the caller may use both."""
    instances, resolvers = Singleton._instances, BaseContainer._resolvers
    Singleton._instances = {
        cls: deepcopy(instance) for cls, instance in instances.items() if cls is not GlobalHydra
    }
    BaseContainer._resolvers = dict(resolvers)
    try:
        yield
    finally:
        Singleton._instances, BaseContainer._resolvers = instances, resolvers
