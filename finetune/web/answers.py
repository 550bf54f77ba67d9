"""Asks the model for the page: one image or several, one caller at a time."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from PIL import Image

from finetune.assembly.pixels import choose_antialias
from finetune.assembly.predictor import Predictor, decode_image
from finetune.assembly.prompts import Prompt, Wording, build_prompts
from finetune.config.publishing import Demo
from finetune.errors import UserError
from finetune.example import PredictionRow, SceneObject
from finetune.report.draw import SMALLEST_SIDE, draw_row
from finetune.tasks.mixture import PART
from finetune.web.forms import Form

log = logging.getLogger(__name__)

_LARGEST_SIDE = 1600
"""Pixels of the long side of a drawn image."""

_WAIT = 20.0
"""Seconds that the end waits for the answer that is being generated."""


class Upload(NamedTuple):
    """A file that came from the page."""

    path: Path
    name: str
    """As the user calls it."""


@dataclass(frozen=True)
class Answered:
    """One image with its answers."""

    upload: Upload
    rows: list[PredictionRow] = field(default_factory=list)
    """One of each prompt, in their order."""
    fault: str = ""
    """Why it has none."""

    @property
    def objects(self) -> list[SceneObject]:
        """The objects of all answers."""
        return [one for row in self.rows for one in row.get("prediction_objects") or ()]


class Answerer:
    """The model of a page.

    Args:
        predictor: answers.
        options: have the task and the grammar.
        example: a prompt that the run was evaluated with, for messages.
    """

    def __init__(self, predictor: Predictor, options: Demo, example: str) -> None:
        self._predictor = predictor
        self._options = options
        self._example = example
        self._as_stored = choose_antialias(options, "validation") is not None
        self._lock = Lock()

    def ask(self, upload: Upload, form: Form, values: Mapping[str, object]) -> Answered:
        """Ask about one image.

        Raises:
            UserError: a field is missing, the prompt is too long, or the image cannot be decoded.
        """
        [answered] = self.ask_all([upload], form, values, lambda done: None)
        if answered.fault:
            raise UserError(answered.fault)
        return answered

    def ask_all(
        self,
        uploads: Sequence[Upload],
        form: Form,
        values: Mapping[str, object],
        report: Callable[[int], object],
    ) -> list[Answered]:
        """Ask the same about several images.

        Args:
            uploads: the images; one may be there twice.
            form: words the prompts.
            values: of the form's fields.
            report: called with the number of images that are done.

        Raises:
            UserError: a field is missing, or the prompt is too long.
        """
        prefixes, fields = form.write(values)
        paths = dict.fromkeys(str(upload.path) for upload in uploads)
        part: dict[str, object] = {} if form.part is None else {PART: form.part}
        rows = [
            ("", {**fields, **part, "image": path, "prefix": one}) for path in paths for one in prefixes
        ]
        wording = Wording(example=self._example)
        try:
            prompts = build_prompts(self._options, wording, [], rows)
            self._predictor.check_lengths(prompts[: len(prefixes)])
        except UserError as error:
            raise UserError(_rename(str(error), uploads)) from error
        answers: dict[tuple[str, str], PredictionRow] = {}
        faults: dict[str, str] = {}
        done = 0
        for batch, found in self._answer(prompts, faults):
            answers |= found
            done += len(batch)
            report(done // len(prefixes))
        return [self._collect(upload, prefixes, answers, faults) for upload in uploads]

    def _answer(
        self, prompts: Sequence[Prompt], faults: dict[str, str]
    ) -> Iterator[tuple[Sequence[Prompt], dict[tuple[str, str], PredictionRow]]]:
        """Yield prompts that were asked, with the answers by image and prompt."""
        while prompts:
            # Of every batch anew: a second caller need not wait for all images of the first one.
            with self._lock:
                size = self._predictor.batch_size
                batch, prompts = prompts[:size], prompts[size:]
                examples = self._predictor.build_examples(batch, faults)
                rows = self._predictor.answer(examples)
            keys = [(example.id, example.prefix) for example in examples]
            yield batch, dict(zip(keys, rows, strict=True))

    def _collect(
        self,
        upload: Upload,
        prefixes: Sequence[str],
        answers: Mapping[tuple[str, str], PredictionRow],
        faults: Mapping[str, str],
    ) -> Answered:
        path = str(upload.path)
        if path in faults:
            return Answered(upload, fault=_rename(faults[path], [upload]))
        rows: list[PredictionRow] = [{**answers[path, one], "image": upload.name} for one in prefixes]
        return Answered(upload, rows)

    def draw(self, answered: Answered, truth: Sequence[SceneObject] = ()) -> Image.Image:
        """Return an image with the predicted objects drawn in, and the true ones dashed."""
        image = decode_image(answered.upload.path, str(answered.upload.path), self._as_stored)
        masked = any(one.get("mask_rle") for one in answered.objects)
        # Outlines of masks would be confusing where only boxes are predicted.
        known: list[SceneObject] = [one if masked else {**one, "mask_rle": None} for one in truth]
        row: PredictionRow = {"prediction_objects": answered.objects, "objects": known}
        return draw_row(image, row, SMALLEST_SIDE, _LARGEST_SIDE)

    def close(self) -> None:
        """Wait until no answer is being generated, and generate no more."""
        if not self._lock.acquire(timeout=_WAIT):
            log.warning("warning: an answer was not waited for")


def _rename(message: str, uploads: Sequence[Upload]) -> str:
    """Return a message with the users' names in place of the server's paths."""
    for upload in uploads:
        message = message.replace(str(upload.path), upload.name)
    return message
