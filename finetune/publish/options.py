"""Options of publishing a result.

Imported by the configuration, so that help answers without torch: nothing heavy is imported here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

_NAME = re.compile(r"[A-Za-z0-9]([\w.-]*[A-Za-z0-9_])?", re.ASCII)
"""Of an account or a repository, as the Hub accepts it."""
_LONGEST = 96
"""Characters of USER/NAME that the Hub accepts."""

PREDICTIONS = "predictions"
IMAGES = "images"
_INCLUDED = (PREDICTIONS, IMAGES)


class Weights(StrEnum):
    """What of a run is published."""

    run = "run"
    merged = "merged"


@dataclass
class PushOptions:
    """What is published, and where."""

    repo: str | None = None
    """Repository on the Hub, USER/NAME; it is made if it does not exist."""
    private: bool = True
    """Make a new repository private, and refuse one that is public."""
    revision: str | None = None
    """Branch that gets the commit; it is made if it does not exist. `null`: main."""
    weights: Weights = Weights.run
    """`run`: the adapter, or the model of a run without one. `merged`: the adapter merged into its base."""
    include: list[str] = field(default_factory=list)
    """What else is sent: `predictions`, the prediction rows, which have prompts and references of the data;
    `images`, the small images of the data in report.html."""

    def problems(self, prefix: str) -> Iterator[str]:
        """Yield values that the Hub would not accept, and options that contradict each other."""
        if self.repo is not None:
            yield from _repo_problems(f"{prefix}repo", self.repo)
        if self.revision is not None and not re.fullmatch(r"[\w][\w./-]*", self.revision, re.ASCII):
            yield f"{prefix}revision={self.revision!r}: expected the name of a branch."
        for name in self.include:
            if name not in _INCLUDED:
                yield f"{prefix}include={name!r}: expected {' or '.join(_INCLUDED)}."


@dataclass
class PushAtEnd(PushOptions):
    """Publishing at the end of a training; in a sweep, of the best run alone."""

    at_end: bool = False
    """Push the result to `push.repo` when the training is finished, as the job `push` does."""

    def problems(self, prefix: str) -> Iterator[str]:
        """Yield values that the Hub would not accept, and options that contradict each other."""
        yield from super().problems(prefix)
        if self.at_end and self.repo is None:
            yield f"{prefix}at_end=true: which repository? {prefix}repo=USER/NAME is missing."
        if not self.at_end and self != PushAtEnd():
            yield f"{prefix}repo= and its neighbors have no effect without {prefix}at_end=true."


def _repo_problems(key: str, repo: str) -> Iterator[str]:
    parts = repo.split("/")
    if repo.startswith(("http:", "https:", "hf:")):
        yield f"{key}={repo}: expected USER/NAME, not an address."
    elif len(parts) == 3 and parts[0] in {"datasets", "spaces", "models"}:
        yield f"{key}={repo}: expected USER/NAME; a result is published as a model."
    elif len(parts) != 2:
        yield f"{key}={repo!r}: expected USER/NAME, such as {key}=ann/paligemma-cups."
    elif (
        not all(map(_NAME.fullmatch, parts))
        or re.search(r"--|\.\.", repo)
        or repo.endswith(".git")
        or len(repo) > _LONGEST
    ):
        yield (
            f"{key}={repo!r}: the Hub accepts letters, digits, `-`, `_` and `.`, without `--` and `..`, "
            f"at most {_LONGEST} characters, and no `.git` at the end."
        )
