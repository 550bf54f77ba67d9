"""The Hub: one file of a repository, and what its client raises in our words.

Libraries wrap the client's errors in their own, so a cause is looked for in the whole chain.
"""

import importlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_token, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from finetune.errors import UserError

HTTP = importlib.import_module(HfHubHTTPError.__mro__[1].__module__.split(".")[0])
"""The client's HTTP library: `httpx2`, or `httpx` for earlier versions."""

LOG_IN = "run `hf auth login`, or set HF_TOKEN"

REPOSITORY = "repository"
"""What something is pushed to, among the kinds that messages name."""

TRANSIENT = (408, 429, 500, 502, 503, 504)
"""Statuses after which the same request may succeed."""

_FULL = re.compile(r"No space left on device|Disk quota exceeded|\(os error (28|122)\)")


def download(name: str, file: str, kind: str, revision: str | None = None) -> Path:
    """Return a file of a repository of models, from the local cache if it is there.

    Args:
        name: USER/NAME.
        file: path in the repository.
        kind: what the repository is, for messages, such as `checkpoint`.
        revision: branch, tag or commit.

    Raises:
        UserError: it cannot be had.
    """
    try:
        return Path(hf_hub_download(name, file, revision=revision))
    except Exception as error:  # of the network, the Hub or the disk
        reason = explain(error, kind, name, revision)
        if reason is None and isinstance(error, EntryNotFoundError):
            reason = f"`{name}` is not a complete {kind}: it has no {file}."
        if reason is None:
            raise
        raise UserError(reason) from error


def explain(error: BaseException, kind: str, name: str, revision: str | None = None) -> str | None:
    """Return what an error of the Hub's client means and what to do; None if it is no such error.

    Args:
        error: as it was raised, perhaps by another library.
        kind: what was asked for, such as `checkpoint`.
        name: USER/NAME.
        revision: that was asked for.
    """
    for one in _chain(error):
        if isinstance(one, EntryNotFoundError) and not isinstance(one, LocalEntryNotFoundError):
            return None  # whoever asked knows what the file is for
        text = _explain_one(one, kind, name, revision)
        if text is not None:
            return text
    return None


def explain_dataset(error: BaseException, name: str, revision: str | None = None) -> str | None:
    """Return what an error of `datasets` means if the Hub is its reason; None if it is not.

    Args:
        error: as it was raised.
        name: USER/NAME.
        revision: that was asked for.
    """
    if type(error).__name__ == "DatasetNotFoundError":  # whose cause `datasets` has removed
        text = str(error)
        if text.startswith("Revision "):
            return explain_revision("dataset", name, revision)
        return (explain_gated if "is a gated dataset" in text else explain_missing)("dataset", name)
    for one in (error, error.__context__):  # `datasets` raises its own in place of the client's
        reason = None if one is None else explain(one, "dataset", name, revision)
        if reason is not None:
            return reason
    if isinstance(error, ConnectionError):  # of `datasets`, which has removed the cause
        return (
            f"The dataset `{name}` cannot be reached: {' '.join(str(error).split())}. {_network('dataset')}"
        )
    return None


def explain_gated(kind: str, name: str) -> str:
    """Return the message for a repository whose files need permission."""
    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{name}"
    if get_token() is None:
        return f"The {kind} `{name}` is gated. Accept its licence on its Hub page ({page}), then {LOG_IN}."
    return (
        f"The {kind} `{name}` is gated. Accept its licence on its Hub page ({page}): the account of the "
        f"token in use has no access yet. For another account, {LOG_IN}."
    )


def explain_missing(kind: str, name: str) -> str:
    """Return the message for a repository that does not exist, or is hidden."""
    elsewhere = "" if kind == REPOSITORY else ", nor a folder of that name"
    who = f"nobody is logged in: {LOG_IN}" if get_token() is None else "the token in use may not read it"
    return f"There is no {kind} `{name}` on the Hub{elsewhere}; or it is private, and {who}."


def explain_revision(kind: str, name: str, revision: str | None) -> str:
    """Return the message for a branch, tag or commit that does not exist."""
    return (
        f"The {kind} `{name}` has no revision `{revision or 'main'}`: expected a branch, a tag or a commit."
    )


def find_status(error: BaseException) -> int | None:
    """Return the status of the Hub's answer that caused an error; None if there was no answer."""
    for one in _chain(error):
        if isinstance(one, HfHubHTTPError | HTTP.HTTPStatusError):
            return int(one.response.status_code)
    return None


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later: the network, a busy Hub or a fault of the Hub."""
    lost = any(isinstance(one, HTTP.TransportError) for one in _chain(error))
    return lost or find_status(error) in TRANSIENT


def find_wait(error: BaseException) -> int | None:
    """Return the seconds after which the Hub wants to be asked again; None if it does not say."""
    for one in _chain(error):
        if isinstance(one, HfHubHTTPError | HTTP.HTTPStatusError):
            value = one.response.headers.get("Retry-After", "")
            reset = re.search(r"\bt=(\d+)", one.response.headers.get("ratelimit", ""))
            return int(value) if value.isdigit() else int(reset[1]) if reset else None
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes: first those that say most."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    yield from sorted(seen, key=_vagueness)


def _vagueness(error: BaseException) -> int:
    if isinstance(error, LocalEntryNotFoundError):
        return 2  # "not in the cache", because of another error
    return int(isinstance(error, OSError) and not isinstance(error, HfHubHTTPError))


def _explain_one(error: BaseException, kind: str, name: str, revision: str | None) -> str | None:
    """Return the meaning of one error of a chain; None if it is not about the Hub."""
    subject = f"The {kind} `{name}`"
    if isinstance(error, GatedRepoError):
        return explain_gated(kind, name)
    if isinstance(error, RevisionNotFoundError):
        return explain_revision(kind, name, revision)
    if isinstance(error, RepositoryNotFoundError):
        return explain_missing(kind, name)
    if isinstance(error, OfflineModeIsEnabled) and kind == REPOSITORY:
        return f"{subject} cannot be reached, because HF_HUB_OFFLINE=1 forbids it: unset it."
    if isinstance(error, OfflineModeIsEnabled):
        return (
            f"{subject} is not in the local cache, and the Hub cannot be reached, because HF_HUB_OFFLINE=1 "
            f"forbids it. Unset it, or give a folder{_shipped(kind)}."
        )
    if isinstance(error, LocalEntryNotFoundError):
        return f"{subject} is not in the local cache, and the Hub cannot be reached. {_network(kind)}"
    if isinstance(error, HFValidationError):
        return f"{subject} is neither a folder nor a Hub id (USER/NAME)."
    if isinstance(error, HfHubHTTPError | HTTP.HTTPStatusError):
        return _explain_status(error, subject)
    if isinstance(error, HTTP.TransportError):
        return f"{subject} cannot be reached: {_lost(error)}. {_network(kind)}"
    return _explain_files(error, subject)


def _explain_status(error: Any, subject: str) -> str:
    """Return the meaning of an answer of the Hub that is no file."""
    status = int(error.response.status_code)
    said = " ".join(str(getattr(error, "server_message", None) or "").split())[:300].rstrip(".")
    quoted = f" It says: {said}." if said else ""
    if status == 401:
        return (
            f"{subject}: the Hub does not accept the token (401). It may be mistyped, expired or "
            f"deleted: {LOG_IN}.{quoted}"
        )
    if status == 403:
        return f"{subject}: the Hub forbids this to the token in use (403).{quoted}"
    if status == 429:
        wait = find_wait(error)
        when = f"in {wait} seconds" if wait is not None else "in a few minutes"
        return f"{subject}: the Hub has had too many requests (429). Try again {when}."
    if status >= 500:
        return f"{subject}: the Hub cannot answer now (status {status}). Try again later.{quoted}"
    return f"{subject}: the Hub refuses the request (status {status}).{quoted}"


def _explain_files(error: BaseException, subject: str) -> str | None:
    """Return the meaning of an error while a file is received and kept."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and _FULL.search(text):
        return (
            f"{subject} does not fit on the disk of {constants.HF_HUB_CACHE} ({text}). Free some "
            "space, or set HF_HOME to another disk."
        )
    if isinstance(error, OSError) and "Consistency check failed" in text:
        return f"{subject}: the connection was cut in the middle of a file. Run the command again."
    if isinstance(error, PermissionError):
        cache = constants.HF_HUB_CACHE
        return f"{subject} cannot be kept in {cache} ({text}). Set HF_HOME to a folder of yours."
    return None


def _lost(error: BaseException) -> str:
    if isinstance(error, HTTP.TimeoutException):
        return "the Hub does not answer in time"
    if isinstance(error, HTTP.ConnectError | HTTP.ProxyError):
        return f"no connection to {constants.ENDPOINT} ({error})"
    return "the connection was cut"


def _network(kind: str) -> str:
    proxy = next((key for key in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY") if os.environ.get(key)), None)
    also = f" and the proxy in {proxy}" if proxy else ""
    instead = "" if kind == REPOSITORY else f", or give a folder{_shipped(kind)}"
    return f"Check the network{also}{instead}."


def _shipped(kind: str) -> str:
    return ": model=FOLDER (model=tiny needs neither)" if kind == "checkpoint" else ""


@contextmanager
def quiet_bars() -> Iterator[None]:
    """Hide the client's progress bars where nobody watches them."""
    is_set = constants.HF_HUB_DISABLE_PROGRESS_BARS is not None  # by the user, in the environment
    if is_set or are_progress_bars_disabled() or sys.stderr.isatty():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
