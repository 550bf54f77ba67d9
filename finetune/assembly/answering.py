"""Answers a list of prompts, and writes answers and drawings into a folder where there is one."""

import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from typing import IO

from PIL.Image import Image

from finetune.assembly.predictor import Predictor, decode_image
from finetune.assembly.prompts import Prompt
from finetune.errors import UserError
from finetune.example import PredictionRow
from finetune.progress import track
from finetune.report.draw import draw_prediction
from finetune.run.answers import AnswerFolder, Key
from finetune.run.files import explain_disk_errors

_AT_ONCE = 256
"""Most prompts looked at together, so that answers that are there already appear soon."""


class Session:
    """Answers prompts in their order, and writes what has to be written."""

    def __init__(
        self, answers: AnswerFolder | None, drawings: Mapping[Key, Path], left_out: dict[str, str]
    ) -> None:
        self._answers = answers
        self._drawings = drawings
        self._left_out = left_out
        self.faults: list[str] = []

    def answer_all(self, predictor: Predictor | None, asked: Sequence[Prompt]) -> Iterator[PredictionRow]:
        """Yield a row for each prompt whose image can be decoded."""
        silent = sys.stdout.isatty()  # the rows themselves show how far it is
        with (
            nullcontext() if self._answers is None else self._answers.open() as stream,
            track(asked, "predict", "answer", silent=silent) as bar,
        ):
            for batch in self._divide(predictor, asked):
                rows = self._answer(predictor, batch, stream)
                for prompt in batch:
                    bar.update()
                    if prompt.key in rows:
                        yield rows[prompt.key]
            self.faults += self._left_out.values()
            if self._answers is not None:
                self._answers.list_left_out(self.faults)

    def _is_open(self, prompt: Prompt) -> bool:
        return prompt.key not in self._known and prompt.name not in self._left_out

    @property
    def _known(self) -> Mapping[Key, PredictionRow]:
        return {} if self._answers is None else self._answers.rows

    def _divide(self, predictor: Predictor | None, asked: Sequence[Prompt]) -> Iterator[list[Prompt]]:
        """Yield the prompts in parts, with a batch of those that have no answer yet in each."""
        part: list[Prompt] = []
        waiting = 0
        for prompt in asked:
            part.append(prompt)
            waiting += self._is_open(prompt)
            # Read anew: it shrinks where memory is short.
            if len(part) == _AT_ONCE or (predictor is not None and waiting >= predictor.batch_size):
                yield part
                part, waiting = [], 0
        if part:
            yield part

    def _answer(
        self, predictor: Predictor | None, prompts: Sequence[Prompt], stream: IO[str] | None
    ) -> dict[Key, PredictionRow]:
        """Return the rows of the prompts, those from before among them, and write the new ones."""
        rows = {prompt.key: self._known[prompt.key] for prompt in prompts if prompt.key in self._known}
        for prompt in prompts:
            target = self._drawings.get(prompt.key)
            if prompt.key in rows and target is not None and not target.exists():
                save_drawing(decode_image(prompt.image, prompt.name), rows[prompt.key], target)
        waiting = [prompt for prompt in prompts if self._is_open(prompt)]
        if predictor is None or not waiting:
            return rows
        examples = predictor.build_examples(waiting, self._left_out)
        for example, row in zip(examples, predictor.answer(examples), strict=True):
            key = (example.id, example.prefix)
            rows[key] = row
            if self._answers is not None and stream is not None:
                target = self._drawings[key]
                row["drawing"] = target.relative_to(self._answers.root).as_posix()
                self._answers.add(stream, row)
                save_drawing(example.images[0], row, target)
        return rows


def save_drawing(image: Image, row: PredictionRow, target: Path) -> None:
    """Draw a prediction into a file, whole or not at all."""
    with explain_disk_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        try:
            draw_prediction(image, row).save(partial, format="PNG")
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


def name_drawings(asked: Sequence[Prompt], root: Path | None, answers: AnswerFolder) -> dict[Key, Path]:
    """Return the file for each drawing: a PNG named after the image, in subfolders as the images are.

    Args:
        asked: the prompts.
        root: the folder that was asked about; None: the deepest one with all images.
        answers: the folder for the drawings; its answers keep theirs.

    Raises:
        UserError: a file is there that is no drawing of an earlier answer.
    """
    # Not `resolve`: a link has the name that the user gave it.
    files = {prompt.name: Path(os.path.normpath(Path(prompt.name).absolute())) for prompt in asked}
    base = Path(os.path.normpath(root.absolute())) if root else _common_folder(list(files.values()))
    inside = {name: file.relative_to(base) for name, file in files.items()}
    alike = Counter(name.with_suffix("") for name in inside.values())
    names = {key: row["drawing"] for key, row in answers.rows.items() if "drawing" in row}
    taken = set(names.values())
    for prompt in asked:
        if prompt.key in names:
            continue
        path = inside[prompt.name]
        # cat.jpg and cat.png would both be cat.png.
        stem = path.name if alike[path.with_suffix("")] > 1 else path.stem
        candidates = (path.with_name(f"{stem}{'' if n == 1 else f'-{n}'}.png").as_posix() for n in count(1))
        names[prompt.key] = next(name for name in candidates if name not in taken)
        taken.add(names[prompt.key])
        target = answers.root / names[prompt.key]
        if target.exists() and target not in answers.replaced:
            raise UserError(
                f"out={answers.root}: {target} is there, and `predict` did not write it. Choose another "
                "folder."
            )
    return {key: answers.root / name for key, name in names.items()}


def _common_folder(files: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([file.parent for file in files]))
