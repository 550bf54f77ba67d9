"""TensorBoard: event files in the run's folder, so that `tensorboard --logdir runs` shows all runs."""

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import OmegaConf

from finetune.run.trackers.predictions import COLUMNS, Shown
from finetune.run.trackers.tracker import TrackedRun, not_installed

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"


class TensorBoard:
    """Curves, images, settings and final scores in `runs/NAME/tensorboard`."""

    name = "tensorboard"

    def __init__(self) -> None:
        self._writer: SummaryWriter | None = None
        self._settings: dict[str, bool | float | str] = {}

    def check(self) -> None:
        """Check that the package is installed.

        Raises:
            UserError: it is not.
        """
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError as error:
            raise not_installed(self.name, error) from error

    def open(self, run: TrackedRun) -> str:
        """Begin a file of events; those after the step of a resumed run no longer count."""
        from torch.utils.tensorboard import SummaryWriter

        start = run.start + 1 if run.start else None
        self._writer = SummaryWriter(str(run.folder / FOLDER), purge_step=start)
        self._settings = _flatten(run.settings)
        text = OmegaConf.to_yaml(OmegaConf.create(dict(run.settings)))
        self._writer.add_text("settings", f"<pre>{html.escape(text)}</pre>", run.start)
        self._writer.flush()
        return f"tensorboard --logdir {run.folder.parent}"

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add one point to each of some curves."""
        for name, value in values.items():
            self._open_writer.add_scalar(name, value, step)
        self._open_writer.flush()

    def show(self, step: int, name: str, rows: Sequence[Shown]) -> None:
        """Add the images, and a table of their texts."""
        for number, row in enumerate(rows):
            pixels = np.asarray(row.image)
            self._open_writer.add_image(f"{name}/{number:02d}", pixels, step, dataformats="HWC")
        texts = [column for column in COLUMNS if column != "image"]
        cells = [[f"{n:02d}", *(getattr(row, one) for one in texts)] for n, row in enumerate(rows)]
        lines = [
            ["", *texts],
            ["---"] * (len(texts) + 1),
            *([_cell(one) for one in line] for line in cells),
        ]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        self._open_writer.add_text(name, table, step)
        self._open_writer.flush()

    def summarize(self, step: int, values: Mapping[str, float]) -> None:
        """Add values as points, and the final scores with the settings as a row of the tab HPARAMS."""
        from torch.utils.tensorboard.summary import hparams

        self.log(step, values)
        final = {name: value for name, value in values.items() if name.startswith("final/")}
        if final:
            file_writer: Any = self._open_writer.file_writer
            for summary in hparams(self._settings, final):  # type: ignore[no-untyped-call]
                file_writer.add_summary(summary)

    def close(self, failed: bool) -> None:
        """Write and close the file."""
        self._open_writer.close()

    def advise(self) -> str:
        """Return an empty text: what was written remains in the folder."""
        return ""

    @property
    def _open_writer(self) -> "SummaryWriter":
        assert self._writer is not None, "open comes first"
        return self._writer


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, bool | float | str]:
    """Return nested settings under dotted names; lists and missing values as text."""
    flat: dict[str, bool | float | str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat


def _cell(value: object) -> str:
    """Return a value as a cell of a Markdown table, in which nothing of its text has a meaning."""
    text = html.escape("" if value is None else str(value))
    return " ".join(
        "".join(f"&#{ord(one)};" if one in "\\`*_{}[]()#+-!|~" else one for one in text).split()
    )
