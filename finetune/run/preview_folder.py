"""The folder of a preview: which files in it are ours, and whether it may be written."""

import logging
from pathlib import Path

from finetune.errors import UserError
from finetune.run.files import explain_disk_errors

log = logging.getLogger(__name__)

MARKER = ".finetune-preview"
"""A folder with this file is a preview's; not that of runs, so that neither is deleted in place of the
other."""

_OURS = ("preview.html", "findings.jsonl", "pictures/*-[0-9][0-9][0-9]*.png")


class PreviewFolder:
    """Paths inside the folder of a preview.

    Args:
        root: the folder, which may not exist yet.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.page = root / "preview.html"
        self.findings = root / "findings.jsonl"
        self.pictures = root / "pictures"

    def check(self, *, overwrite: bool) -> None:
        """Refuse a folder that may not be written, before anything slow is done, without changing it.

        Raises:
            UserError: it is not a preview's folder, or has a preview and `overwrite` is False.
        """
        choose = "Choose another out=FOLDER."
        try:
            if (self.root.exists() or self.root.is_symlink()) and not self.root.is_dir():
                raise UserError(f"{self.root} is not a folder. {choose}")
            if not self.root.is_dir() or not any(self.root.iterdir()):
                return
        except OSError as error:
            raise UserError(f"{self.root} cannot be read ({error.strerror}). {choose}") from error
        if not (self.root / MARKER).is_file():
            raise UserError(
                f"{self.root} is not empty, and no preview wrote what is in it (there is no {MARKER}): "
                f"nothing in it is touched. {choose}"
            )
        if not overwrite:
            raise UserError(
                f"{self.root} already holds a preview. Choose another folder (out=FOLDER), or replace it "
                "(overwrite=true)."
            )

    def claim(self, *, overwrite: bool) -> None:
        """Create the folder, and delete the preview in it; other files are kept.

        Raises:
            UserError: see `check`; or the folder cannot be made.
        """
        self.check(overwrite=overwrite)
        try:
            with explain_disk_errors(self.root):
                self.root.mkdir(parents=True, exist_ok=True)
                (self.root / MARKER).touch()
                for file in (file for pattern in _OURS for file in self.root.glob(pattern)):
                    file.unlink()
        except OSError as error:
            raise UserError(
                f"{self.root} cannot be written ({error}). Choose another out=FOLDER."
            ) from error
