"""Progress bars of the command line; a program that imports the package prints nothing."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

_is_shown = False


@contextmanager
def shown() -> Iterator[None]:
    """Draw bars while the block runs, if standard error is a terminal."""
    global _is_shown
    before, _is_shown = _is_shown, True
    try:
        yield
    finally:
        _is_shown = before


def track(
    items: Iterable[T],
    description: str,
    unit: str,
    *,
    total: int | None = None,
    done: int = 0,
    silent: bool = False,
    leave: bool = True,
) -> "tqdm[T]":
    """Return items under a bar.

    Args:
        items: the items to iterate; empty if the caller moves the bar with `update`.
        description: text before the bar.
        unit: name of an item.
        total: number of items; None for the length of `items`.
        done: number of items done before.
        silent: draw nothing, such as in all processes but the main one.
        leave: keep the bar on the terminal at the end.
    """
    return tqdm(
        items,
        desc=description,
        unit=unit,
        total=total,
        initial=done,
        disable=None if _is_shown and not silent else True,
        leave=leave,
    )
