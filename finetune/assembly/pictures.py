"""Pictures of what was predicted, beside the rows that say it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from finetune.data.examples.dataset import ExampleDataset
from finetune.example import PredictionRow
from finetune.report.draw import draw_prediction
from finetune.run.files import write_folder


def write_pictures(
    folder: Path, examples: ExampleDataset, rows: Sequence[Mapping[str, Any]], count: int
) -> int:
    """Draw the first predictions that name places, with the true objects; whole or not at all.

    Args:
        folder: gets `<number>.png`; replaced.
        examples: the split, in the order of the rows.
        rows: prediction rows.
        count: the most pictures.

    Returns:
        How many were drawn; without any there is no folder.
    """
    chosen = [index for index, row in enumerate(rows) if "prediction_objects" in row][:count]

    def draw(target: Path) -> None:
        for index in chosen:
            picture = draw_prediction(examples[index].images[0], cast(PredictionRow, rows[index]))
            picture.save(target / f"{index:03d}.png")

    if chosen:
        write_folder(folder, draw)
    return len(chosen)
