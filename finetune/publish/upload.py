"""One commit to a repository of models on the Hub: checked before, retried, and read back.

Large files are uploaded first and count for nothing until the commit, which is a single request. So a push
that fails leaves the repository as it was, and the next one sends only what has not arrived.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash

from finetune.errors import UserError
from finetune.hub import LOG_IN, REPOSITORY, explain, find_status, find_wait, is_transient, quiet_bars
from finetune.publish.card import CARD
from finetune.publish.contents import Contents, is_allowed
from finetune.publish.options import PushOptions
from finetune.publish.results import PushResult

log = logging.getLogger(__name__)

T = TypeVar("T")

WAITS = (1.0, 4.0, 16.0)
"""Seconds before each further attempt of a request that the client does not repeat by itself."""
_PATIENCE = 300
"""Seconds; a Hub that wants a longer wait is not waited for."""
_OF_A_PUSH = {"config.yaml", "metrics.json"}
"""Files of every push, and of hardly anything else."""
_MOVED = 412
"""Status of a commit on a branch that has got another commit meanwhile."""


@dataclass(frozen=True)
class Destination:
    """A repository that may be written.

    Attributes:
        repo: USER/NAME.
        branch: that gets the commit.
        exists: whether the repository is there.
        private: whether it is, or will be, private.
    """

    repo: str
    branch: str
    exists: bool
    private: bool


def check_destination(options: PushOptions) -> Destination:
    """Check token, name and permission, without changing anything on the Hub.

    Raises:
        UserError: no token or one that may only read, no network, a repository that is public or is
            somebody else's.
    """
    repo = options.repo
    if repo is None:
        raise UserError("Which repository? repo=USER/NAME is missing (or dry_run=true, which needs none).")
    if get_token() is None:
        raise UserError(
            f"Nobody is logged in to the Hub, so nothing can be pushed: {LOG_IN}, with a token that may "
            "write."
        )
    with _explaining(repo):
        api = HfApi()
        _check_token(_ask(api.whoami), repo)
        info = _find(api, repo, "model")
        if info is None:
            for kind in ("dataset", "space"):
                if _find(api, repo, kind) is not None:
                    raise UserError(
                        f"{repo} is a {kind} on the Hub, and a result is published as a model. Choose "
                        "another name."
                    )
    if info is not None and options.private and info.private is False:
        raise UserError(
            f"{repo} is public on the Hub, but private=true. Push to it with private=false, make it "
            f"private on its page ({constants.ENDPOINT}/{repo}/settings), or choose another name."
        )
    if info is not None and not options.private and info.private:
        raise UserError(
            f"{repo} is private on the Hub, and a push does not change that: make it public on its page "
            f"({constants.ENDPOINT}/{repo}/settings), or leave private=false out."
        )
    private = options.private if info is None else bool(info.private)
    return Destination(repo, options.revision or constants.DEFAULT_REVISION, info is not None, private)


def push(contents: Contents, to: Destination, message: str) -> PushResult:
    """Make one commit that has all the files, and compare the repository with them.

    Args:
        contents: the files; checked.
        to: from `check_destination`.
        message: title of the commit.

    Raises:
        UserError: the Hub refuses it or cannot be reached; or it has other contents afterwards.
    """
    api = HfApi()
    with _explaining(to.repo, "Nothing was published; the same command goes on with what is missing."):
        if not to.exists:
            _ask(lambda: api.create_repo(to.repo, private=to.private, exist_ok=True))
        parent, is_new = _find_start(api, to)
        there = _list_files(api, to.repo, parent)
        _check_earlier(there, to.repo)
        if is_new:
            _ask(lambda: api.create_branch(to.repo, branch=to.branch, exist_ok=True))
        additions = [CommitOperationAdd(name, content) for name, content in contents.files.items()]
        # Files of an earlier push that this one does not have, such as a model where now an adapter is.
        stale = tuple(name for name in there if name not in contents.files and is_allowed(name))
        deletions = [CommitOperationDelete(name) for name in stale]
        with quiet_bars():
            commit = _commit(api, to, [*additions, *deletions], parent, message, contents)
    with _explaining(to.repo, f"The commit {commit} was made, but could not be read back: push again."):
        _read_back(_list_files(api, to.repo, commit), contents, to.repo)
    changed = commit != parent
    url = f"{constants.ENDPOINT}/{to.repo}/commit/{commit}"
    return PushResult(url, commit, contents.sizes, changed, stale if changed else (), to.private)


def _check_token(account: dict[str, Any], repo: str) -> None:
    """Refuse a token that cannot write to a repository, as far as it says so itself."""
    owner, name = repo.split("/")[0], account.get("name")
    token = (account.get("auth") or {}).get("accessToken") or {}
    if token.get("role") == "read":
        raise UserError(
            f"The token of `{name}` may only read, so nothing can be pushed. Make one that may write, then "
            f"{LOG_IN}."
        )
    organizations = [one.get("name") for one in account.get("orgs") or []]
    # A fine-grained token does not list everything that it may do.
    if token.get("role") == "write" and owner not in [name, *organizations]:
        where = ", ".join(f"{one}/{repo.split('/')[1]}" for one in [name, *organizations])
        raise UserError(
            f"{repo}: the token is that of `{name}`, who may not write there. Choose one of: {where}."
        )


def _find(api: HfApi, repo: str, kind: str) -> Any:
    """Return what the Hub says of a repository; None if this account cannot see one."""
    try:
        return _ask(lambda: api.repo_info(repo, repo_type=kind))
    except RepositoryNotFoundError:
        return None


def _find_start(api: HfApi, to: Destination) -> tuple[str, bool]:
    """Return the last commit of the branch; if there is no such branch yet, that of main, and True.

    Raises:
        UserError: its name is that of a tag or a commit.
    """
    refs = _ask(lambda: api.list_repo_refs(to.repo))
    heads = {branch.name: branch.target_commit for branch in refs.branches}
    if to.branch in heads:
        return heads[to.branch], False
    try:
        _ask(lambda: api.repo_info(to.repo, revision=to.branch))
    except RevisionNotFoundError:
        return heads[constants.DEFAULT_REVISION], True
    raise UserError(f"revision={to.branch} is a tag or a commit of {to.repo}: a push needs a branch.")


def _check_earlier(there: dict[str, RepoFile], repo: str) -> None:
    """Refuse a repository whose files a push would replace, and no push wrote.

    Raises:
        UserError: names some of them.
    """
    if there.keys() >= _OF_A_PUSH:
        return
    foreign = [name for name in there if is_allowed(name) and name != CARD]
    if foreign:
        raise UserError(
            f"{repo} has {', '.join(foreign[:3])}, which no push wrote: nothing in it is touched. Choose "
            "another name."
        )


def _commit(
    api: HfApi,
    to: Destination,
    operations: list[CommitOperationAdd | CommitOperationDelete],
    parent: str,
    message: str,
    contents: Contents,
) -> str:
    """Commit, and return the id of the commit that has the files: `parent` if it has all of them."""
    try:
        made = _ask(
            lambda: api.create_commit(
                to.repo, operations, commit_message=message, revision=to.branch, parent_commit=parent
            )
        )
        return str(made.oid)
    except Exception as error:
        if find_status(error) != _MOVED:
            raise
        # An answer that was lost: the commit may have been made by the attempt before.
        head = str(_ask(lambda: api.repo_info(to.repo, revision=to.branch)).sha)
        if not list(_list_differences(_list_files(api, to.repo, head), contents)):
            return head
        raise UserError(
            f"{to.repo}: the branch {to.branch} got another commit during the push, and was left as it is. "
            "Push again."
        ) from error


def _list_files(api: HfApi, repo: str, revision: str) -> dict[str, RepoFile]:
    listed = _ask(lambda: list(api.list_repo_tree(repo, recursive=True, revision=revision)))
    return {entry.path: entry for entry in listed if isinstance(entry, RepoFile)}


def _read_back(there: dict[str, RepoFile], contents: Contents, repo: str) -> None:
    """Compare a commit with what was sent.

    Raises:
        UserError: a file is missing or has another content.
    """
    different = list(_list_differences(there, contents))
    if different:
        raise UserError(
            f"{repo} does not have what was sent: {', '.join(different[:5])} differ. Push again, and look "
            "at the repository's page before using it."
        )


def _list_differences(there: dict[str, RepoFile], contents: Contents) -> Iterator[str]:
    for name, content in contents.files.items():
        file = there.get(name)
        if file is None or file.size != contents.size(name):
            yield name
        elif file.lfs is not None:
            if file.lfs.sha256 != contents.sha256(name):
                yield name
        elif file.blob_id != git_hash(content if isinstance(content, bytes) else content.read_bytes()):
            yield name


def _ask(call: Callable[[], T]) -> T:
    """Make a request that the client does not repeat by itself; again if the network or the Hub fails."""
    for wait in (*WAITS, None):
        try:
            return call()
        except Exception as error:
            # A fault's page instead of JSON is a fault too.
            passing = is_transient(error) or isinstance(error, json.JSONDecodeError)
            # The client has repeated the upload of a large file, and raises this when it gives up.
            passing = passing and not isinstance(error, RuntimeError)
            asked = find_wait(error) or 0
            if wait is None or not passing or asked > _PATIENCE:
                raise
            log.warning("the Hub: %s; next attempt in %d s", _name(error), max(wait, asked))
            _sleep(max(wait, asked))
    raise AssertionError("the last attempt returns or raises")


_sleep = time.sleep


def _name(error: BaseException) -> str:
    status = find_status(error)
    return f"status {status}" if status is not None else type(error).__name__


@contextmanager
def _explaining(repo: str, outcome: str = "Nothing was published.") -> Iterator[None]:
    """Turn errors of the Hub and the network into a `UserError` that says what was published."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        _explain(error, repo, outcome)


def _explain(error: Exception, repo: str, outcome: str) -> NoReturn:
    text = " ".join(str(error).split())
    if isinstance(error, ValueError) and "metadata in README.md" in text:
        reason: str | None = f"The Hub refuses the model card: {text}."
    else:
        reason = explain(error, REPOSITORY, repo)
    if reason is None:
        raise error
    raise UserError(f"{reason} {outcome}") from error
