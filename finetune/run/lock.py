"""The marker of a run's folder, which is also its lock."""

import errno
import fcntl
import json
import logging
import os
import socket
from pathlib import Path

from finetune.errors import UserError

log = logging.getLogger(__name__)

MARKER = ".finetune"
"""A folder with this file is a run's folder; any program may have a `config.yaml`. The marker is
also the lock, so that a folder is claimed and locked in one step."""

_WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}


class RunLock:
    """Held by one process while it writes in a run's folder; the system releases it when the process ends.

    A POSIX record lock (man fcntl(2)): unlike `flock` it is not inherited by data workers, which may
    outlive a killed process by seconds. Closing any other descriptor of the marker in this process would
    release it, so nothing else opens the file.

    Args:
        root: the run's folder.
    """

    def __init__(self, root: Path) -> None:
        self.file = root / MARKER
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Acquire the lock, and write its holder into the marker.

        Raises:
            UserError: another process has it.
        """
        if self._descriptor is not None:
            return
        descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                holder = _describe(os.read(descriptor, 1024))
                os.close(descriptor)
                raise UserError(
                    f"{self.file.parent} is in use by {holder}. Wait until it has ended, or choose another "
                    "run_name=."
                ) from error
            log.warning("warning: %s has no locks; nothing keeps a second run out", self.file.parent)
        holder = json.dumps({"format": 1, "process": os.getpid(), "host": socket.gethostname()})
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, holder.encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Release the lock; the marker is kept."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    __del__ = release

    @property
    def is_in_place(self) -> bool:
        """Whether the locked marker is still in the folder."""
        if self._descriptor is None:
            return True
        try:
            return os.path.samestat(os.fstat(self._descriptor), self.file.stat())
        except OSError:
            return False


def _describe(content: bytes) -> str:
    try:
        holder = json.loads(content)
        return f"process {holder['process']} on {holder['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
