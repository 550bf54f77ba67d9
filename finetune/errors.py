"""The one kind of error that is shown to a user without a traceback."""

_WORKER_PREFIX = "Caught UserError in"


class UserError(Exception):
    """A mistake that the user can mend: the message says what, where and how.

    The command line prints the message alone and exits with 2; `FINETUNE_DEBUG=1` adds the traceback.
    """

    def __init__(self, message: str) -> None:
        # A DataLoader worker re-raises with its own traceback as the message; only the last line is ours.
        if message.startswith(_WORKER_PREFIX):
            message = message.rpartition("UserError: ")[2].strip()
        super().__init__(message)


def suggest(name: str, known: list[str]) -> str:
    """Return `" Did you mean `x`?"` for the nearest known name, or an empty string."""
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean `{near[0]}`?" if near else ""
