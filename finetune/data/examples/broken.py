"""Decode every image of a split before training, and report those that cannot be used."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch.utils.data import DataLoader, Dataset

from finetune import signals
from finetune.data.examples.dataset import ExampleDataset
from finetune.data.images import check_size
from finetune.errors import UserError
from finetune.progress import track


def find_broken_images(
    examples: ExampleDataset, workers: int = 0, part: range | None = None
) -> dict[int, str]:
    """Decode every image of a split, each file once.

    Args:
        examples: the split.
        workers: processes that decode.
        part: the rows to check; None: all of them.

    Returns:
        Index of a row with an image that cannot be used -> the reason.
    """
    loader = DataLoader(
        _ImageFaults(examples, part if part is not None else range(len(examples))),
        batch_size=32,
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=signals.ignore_in_worker,
    )
    faults: dict[int, str] = {}
    with signals.held():
        batches = iter(loader)
    description = f"checking {examples.split} images"
    for batch in track(batches, description, "batch", total=len(loader), leave=False):
        faults.update({index: fault for index, fault in batch if fault is not None})
    return faults


@dataclass(eq=False)
class _ImageFaults(Dataset[tuple[int, str | None]]):
    """The faults in the images of each row; read in the loader's workers."""

    examples: ExampleDataset
    indices: range
    _decoded: dict[str, tuple[tuple[int, int] | None, str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: int) -> tuple[int, str | None]:
        index = self.indices[number]
        row = self.examples.rows[index]
        where = f"{self.examples.split} example `{row['id']}`"
        sources = row.get("images") or [row.get("image")]
        for source in sources:
            if source is None:
                return index, f"{where} has no image."
            size, fault = self._decode(source, where)
            try:
                if size is not None and len(sources) == 1:
                    check_size((row.get("height"), row.get("width")), size, where)
            except UserError as error:
                fault = str(error)
            if fault:
                return index, fault
        return index, None

    def _decode(self, source: str | Mapping[str, object], where: str) -> tuple[tuple[int, int] | None, str]:
        """Return height and width, or the reason why there are none; files are decoded once."""
        if isinstance(source, str) and source in self._decoded:
            return self._decoded[source]
        try:
            image = self.examples.load_images({"images": [source]}, where)[0]
            result: tuple[tuple[int, int] | None, str] = ((image.height, image.width), "")
        except UserError as error:
            result = (None, str(error))
        if isinstance(source, str):
            self._decoded[source] = result
        return result
