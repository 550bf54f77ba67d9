"""Takes this machine's paths out of texts that others will read."""

import html
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


class Places:
    """Paths of this machine, which are replaced by their last part.

    Args:
        paths: absolute paths that texts may contain, besides the home folder, the current one and the
            temporary one.
    """

    def __init__(self, paths: Iterable[str] = ()) -> None:
        self._exact = {path for path in paths if is_local(path)}
        home = os.path.expanduser("~")  # noqa: PTH111  # "/root" even where no such folder exists
        folders = {home, str(Path.cwd()), tempfile.gettempdir(), os.environ.get("HF_HOME", "")}
        self._folders = {folder.rstrip("/\\") for folder in folders if is_local(f"{folder}/x")}
        self.replaced: set[str] = set()

    def hide(self, text: str) -> str:
        """Replace each path by its last part, also where HTML escaped it."""
        for path in sorted(self._exact, key=len, reverse=True):
            for written in {path, html.escape(path)}:
                pattern = re.escape(written) + r"(?![\w-])"
                text = re.sub(pattern, lambda match: self._note(match[0]), text)
        for folder in sorted(self._folders, key=len, reverse=True):
            # A path ends at a space, a quote or a bracket.
            pattern = rf"(?<![\w/.]){re.escape(folder)}(?![\w.-])(/[^\s\"'`<>|,;:()\[\]{{}}&]*)?"
            text = re.sub(pattern, lambda match: self._note(match[0]), text)
        return text

    def _note(self, path: str) -> str:
        self.replaced.add(html.unescape(path))
        return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def is_local(text: str) -> bool:
    """Whether a text is an absolute path with at least two parts."""
    if "\n" in text:
        return False
    return bool(re.match(r"/[^/]+/.|[A-Za-z]:[\\/]+[^\\/]+[\\/]+.|~/.", text))


def list_texts(value: Any) -> Iterator[str]:
    """Yield every text inside nested dictionaries and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from list_texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from list_texts(item)
