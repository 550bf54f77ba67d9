"""Refuses options that a job would ignore, by name."""

import re
from collections.abc import Iterator
from dataclasses import fields
from itertools import chain

from finetune.config.jobs import JOBS, has_option, own_options
from finetune.config.published import is_published
from finetune.config.schema import SPELLINGS, RunConfig
from finetune.config.words import split_word
from finetune.errors import UserError

_ROOTS = {"recipe", *(field.name for field in fields(RunConfig)), *chain(*map(own_options, JOBS))}

_FIXED_BY_RUN = {
    "recipe": "the run's own config.yaml is the recipe",
    "model([.](path|revision|hub_id|resolution|final_logit_softcap|llm_dropout))?": (
        "the run names its own checkpoint"
    ),
    "adapter(_revision)?": "run=FOLDER brings its own adapter",
    r"peft(\..*)?": "the run's adapter is fixed",
    "run_name|runs_dir|overwrite": "the scores are written into the run's own folder",
}
"""Keys that `evaluate`, `merge`, `predict` and `demo` refuse with `run=`, and why."""


_READ_PUBLISHED = {"predict", "demo"}
"""Jobs that take a run from the Hub; others read or write more of its folder than is pushed."""


def check_options(job: str, words: list[str]) -> None:
    """Refuse an option that the job would ignore.

    Args:
        job: its name.
        words: `key=value` words as they were typed.

    Raises:
        UserError: names every such option, and the job that reads it.
    """
    keys = [split_word(word)[0] for word in words]
    problems = [_problem(job, key, "run" in keys) for key in keys]
    resumes = any(re.fullmatch(r"resume=(true|yes|on|y|1)", word, re.IGNORECASE) for word in words)
    if job == "train" and "run" in keys and not resumes:
        raise UserError(
            "run=FOLDER with `train` continues that run: add resume=true. To repeat it under another "
            "name: recipe=FOLDER/config.yaml run_name=NAME."
        )
    # Composing reports an unknown key with the nearest name, which is perhaps the one that seems missing.
    if all(re.split(r"[./@]", key)[0] in {*_ROOTS, *SPELLINGS} for key in keys):
        problems += _list_missing(job, words, set(keys))
    messages = [problem for problem in problems if problem]
    if messages:
        raise UserError("\n".join(messages))


def _list_missing(job: str, words: list[str], keys: set[str]) -> Iterator[str]:
    """Yield what a job needs and was not given."""
    if job in {"predict", "demo"} and not {"run", "model", "model.path"} & keys:
        yield "Which model? run=FOLDER (a finished run), or model=ID."
    if job in {"report", "push", "export"} and "run" not in keys:
        yield "Which run? run=FOLDER (a finished run)."
    if job == "reproduce" and "card" not in keys:
        yield "Which result? card=FOLDER (of a run), or card=USER/NAME on the Hub."
    if job == "merge" and not {"run", "adapter"} & keys:
        yield "What is merged? run=FOLDER (a finished run), or model=ID adapter=ID_OR_FOLDER."
    named = next((word.partition("=")[2] for word in words if word.startswith("run=")), "")
    if job not in _READ_PUBLISHED and is_published(named):
        yield (
            f"run={named}: there is no such folder, and `{job}` needs one. A run on the Hub is asked by "
            f"`predict`, and scored again by `reproduce card={named}`."
        )
    if job in {"export", "merge"} and "out" not in keys:
        what = "the graphs and the page" if job == "export" else "the merged model"
        yield f"Where to? out=FOLDER, for {what}."


def _problem(job: str, key: str, has_run: bool) -> str | None:
    if re.split(r"[./@]", key)[0] not in {*_ROOTS, *SPELLINGS}:
        return None  # composing reports unknown keys
    if job == "reproduce" and key == "recipe":
        return "recipe= with card= has no effect: the result's own config.yaml is the recipe. Leave it out."
    if has_run and job == "train" and key in {"recipe", "run_name", "runs_dir"}:
        return f"{key}= with run=FOLDER has no effect: the run has its own. Leave it out."
    if has_run and job in {"evaluate", "export", "merge", "predict", "demo"}:
        for pattern, reason in _FIXED_BY_RUN.items():
            if re.fullmatch(pattern, key) and (job == "evaluate" or key != "overwrite"):
                return f"{key}= with run=FOLDER has no effect: {reason}. Leave it out."
    if has_option(job, SPELLINGS.get(key, key)):
        return None
    readers = [name for name in JOBS if has_option(name, SPELLINGS.get(key, key))]
    known = f" It is an option of {', '.join(f'`{name}`' for name in readers)}." if readers else ""
    return f"{key}= has no effect on `{job}`.{known} Leave it out."
