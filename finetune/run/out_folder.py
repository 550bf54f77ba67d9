"""A folder of results that a job writes as a whole, such as a preview or a merged model.

Its marker lists each file with its digest. Only a file that is listed and unchanged is ever deleted or
replaced: a user may keep other files next to them.
"""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune.errors import UserError
from finetune.run.files import explain_disk_errors, flush, read_json, write_json


class OutFolder:
    """A folder that a job writes.

    Args:
        root: the folder, which may not exist yet.
        job: name of the job, whose marker is `.finetune-JOB`; jobs do not replace each other's folders, nor
            runs.
        word: the option that names the folder, for messages.
    """

    def __init__(self, root: Path, job: str, word: str = "out") -> None:
        self.root = root
        self.marker = root / f".finetune-{job}"
        self._job = job
        self._choose = f"Choose another {word}=FOLDER"

    def check(self, *, overwrite: bool) -> None:
        """Refuse a folder that may not be written, before anything slow is done, without changing it.

        Raises:
            UserError: the job did not write what is in the folder, or did and `overwrite` is False.
        """
        try:
            if (self.root.exists() or self.root.is_symlink()) and not self.root.is_dir():
                raise UserError(f"{self.root} is not a folder. {self._choose}.")
            if not self.root.is_dir() or not any(self.root.iterdir()):
                return
            if not self.marker.is_file():
                raise UserError(
                    f"{self.root} is not empty, and `{self._job}` did not write what is in it (there is no "
                    f"{self.marker.name}): nothing in it is touched. {self._choose}."
                )
            if not overwrite:
                raise UserError(
                    f"{self.root} already has a result of `{self._job}`. {self._choose}, or replace it "
                    "(overwrite=true)."
                )
            for file, digest in self._listed().items():
                if file.is_file() and _digest(file) != digest:
                    raise UserError(
                        f"{file} was changed after `{self._job}` had written it, so it is not "
                        f"replaced. {self._choose}, or delete the file."
                    )
        except OSError as error:
            raise UserError(f"{self.root} cannot be read ({error.strerror}). {self._choose}.") from error

    @contextmanager
    def writing(self, *, overwrite: bool = False) -> Iterator[Path]:
        """Yield an empty folder; if the block ends without an error, its files replace the old ones.

        Raises:
            UserError: see `check`; a file of the user's has the name of a new one; or the disk is full.
        """
        self.check(overwrite=overwrite)
        partial = self.root.absolute().with_name(f".{self.root.name}.partial")
        try:
            with explain_disk_errors(self.root, "Nothing was written.", self._choose):
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
                yield partial
                self._replace_with(partial)
        except OSError as error:
            raise UserError(f"{self.root} cannot be written ({error}). {self._choose}.") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _replace_with(self, partial: Path) -> None:
        files = [file.relative_to(partial) for file in sorted(partial.rglob("*")) if file.is_file()]
        old = self._listed()
        for file in files:
            target = self.root / file
            if target.exists() and target not in old:
                raise UserError(
                    f"{target} is there, and `{self._job}` did not write it. Move it away. {self._choose}."
                )
        digests = {str(file): _digest(partial / file) for file in files}
        kept = {str(file.relative_to(self.root)): digest for file, digest in old.items()}
        self.root.mkdir(parents=True, exist_ok=True)
        # Until all files are in place, the marker lists the old ones and the new ones.
        write_json(self.marker, {"files": {**kept, **digests}})
        for file in old.keys() - {self.root / name for name in files}:
            file.unlink(missing_ok=True)
            if file.parent != self.root and file.parent.is_dir() and not any(file.parent.iterdir()):
                file.parent.rmdir()
        for name in files:
            target = self.root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            flush(partial / name)
            (partial / name).replace(target)
        write_json(self.marker, {"files": digests})

    def _listed(self) -> dict[Path, str]:
        """Return the files that the job wrote, with their digests.

        Raises:
            UserError: the marker does not list them.
        """
        if not self.marker.is_file():
            return {}
        try:
            files = read_json(self.marker)["files"]
            return {self.root / self._inside(name): str(digest) for name, digest in files.items()}
        except (UserError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.marker} does not list the files that `{self._job}` wrote, so none of them is "
                f"replaced. {self._choose}, or delete the folder."
            ) from error

    def _inside(self, name: str) -> Path:
        """Return a listed path, which must be inside the folder: anyone may have written the marker."""
        path = Path(name)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{name} is outside the folder")
        return path


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
