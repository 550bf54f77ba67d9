"""Refuses secrets in options: a run's `config.yaml` and `environment.json` contain every word."""

import json
import os
import re
from collections.abc import Iterator
from html import escape
from typing import Any

_SECRET_NAME = re.compile(
    r"(.*[_.-])?(tokens?|secrets?|passwords?|passwd|credentials?|auth|api_?keys?"
    r"|(access|secret|private|auth|hub|wandb|license|ssh|encryption)_?keys?)([_.-].*)?",
    re.IGNORECASE,
)
"""Names of options, such as those of a custom part; names of the schema's fields are not checked."""

_SECRET_VARIABLE = re.compile(
    r"(.*_)?(tokens?|secrets?|passwords?|passwd|credentials?|auth|api|key|keys)(_.*)?|.*(passw|apikey).*",
    re.IGNORECASE,
)
"""Names of environment variables."""

_SECRET_VALUE = re.compile(
    r"\b(hf|api_org)_[A-Za-z0-9]{16,}|\bwandb_v\d_\w{16,}|\bsk-[\w-]{16,}|\bgh[pousr]_\w{16,}"
    r"|\bgithub_pat_\w{16,}|\bglpat-[\w-]{16,}|\bxox[abprs]-[\w-]{10,}|\b(AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.|\bAIza[\w-]{30,}|-----BEGIN [A-Z ]*PRIVATE KEY|\bBearer\s+\S{12,}"
    r"|\w+://[^\s/:@]*:[^\s/@]+@"
)
_ENVIRONMENT = re.compile(r"\$\{\s*oc\.env\s*:\s*['\"]?(\w+)")
_LEAST_CHARACTERS = 12
"""A shorter value of a secret variable may equal any text by chance."""

_REMEDY = (
    "The run's files would hold it. Set it in the environment (HF_TOKEN, WANDB_API_KEY), where the "
    "libraries read it."
)


def find_secrets(values: Any, known: frozenset[str], prefix: str = "") -> Iterator[str]:
    """Yield a message for each secret, without its value.

    Args:
        values: nested dictionaries and lists of plain values.
        known: keys of the schema, whose names are not checked.
        prefix: key of `values`.
    """
    if isinstance(values, dict):
        for name, value in values.items():
            key = f"{prefix}.{name}" if prefix else str(name)
            is_text = isinstance(value, str) and not re.fullmatch(r"|null|true|false|[\d.]+", value)
            if is_text and key not in known and _SECRET_NAME.fullmatch(str(name)):
                yield f"{key} looks like a secret. {_REMEDY}"
            else:
                yield from find_secrets(value, known, key)
    elif isinstance(values, list | tuple):
        for index, value in enumerate(values):
            yield from find_secrets(value, known, f"{prefix}[{index}]")
    elif isinstance(values, str) and _is_secret(values):
        yield f"{prefix} holds what looks like a secret. {_REMEDY}"


def find_secret_variables(text: str) -> Iterator[str]:
    """Yield a message for each `${oc.env:NAME}` whose name suggests a secret."""
    for name in _ENVIRONMENT.findall(text):
        if _SECRET_VARIABLE.fullmatch(name):
            yield f"${{oc.env:{name}}} would write a secret into the run's files. {_REMEDY}"


def find_secret_lines(text: str, *, with_patterns: bool = True) -> Iterator[int]:
    """Yield the number of each line of a file that has a secret in it, counted from 1.

    Args:
        text: content of the file, perhaps JSON or HTML, in which characters are escaped.
        with_patterns: also look for what is shaped like a token, not only for the values of this
            environment.
    """
    values = [
        form for value in _secret_values() for form in (value, escape(value), json.dumps(value)[1:-1])
    ]
    for number, line in enumerate(text.splitlines(), 1):
        if any(value in line for value in values) or (with_patterns and _SECRET_VALUE.search(line)):
            yield number


def _is_secret(text: str) -> bool:
    if _SECRET_VALUE.search(text):
        return True
    return any(value in text for value in _secret_values())


def _secret_values() -> list[str]:
    """Return the values of the environment's variables that are secrets by their names."""
    return [
        value
        for name, value in os.environ.items()
        if len(value) >= _LEAST_CHARACTERS and _SECRET_VARIABLE.fullmatch(name)
    ]
