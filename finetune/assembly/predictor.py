"""A finished model that answers prompts about images."""

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn
from transformers import PaliGemmaProcessor

from finetune.assembly.custom import object_options
from finetune.assembly.finished import load_trained, resolve_finished_run
from finetune.assembly.mask_codec import find_mask_vae
from finetune.assembly.model import half_precision
from finetune.assembly.pixels import choose_antialias
from finetune.codecs.objects import ObjectReader
from finetune.config.jobs import Predict
from finetune.data.batches.collator import Collator
from finetune.data.images import Picture, convert_image
from finetune.errors import UserError, describe
from finetune.example import Example, PredictionRow
from finetune.generation.generate import answer_batches
from finetune.model.load import load_config, load_processor
from finetune.run.folder import RunFolder
from finetune.tasks.task import Answer

ImageSource = Path | Image.Image
Given = str | ImageSource | np.ndarray[Any, Any]
"""A file, an image opened with PIL, or an array of uint8 (height, width, 3)."""


class Predictor:
    """A run's model or any checkpoint with its processor, on this process's device.

    Args:
        options: name the model and the settings of generation.
        folder: folder of the run, if any.

    Attributes:
        model: the model with its adapter, in evaluation mode.
        processor: processor of the checkpoint.

    Raises:
        UserError: the run is not finished, or model and adapter do not fit.
    """

    def __init__(self, options: Predict, folder: RunFolder) -> None:
        options = resolve_finished_run(options, folder)
        path, revision = options.model.path, options.model.revision
        self._options = options
        self._reader = build_reader(options, folder)
        self.processor: PaliGemmaProcessor = load_processor(path, revision)
        self.model: nn.Module = load_trained(options, load_config(path, revision, None))

    @property
    def batch_size(self) -> int:
        """Number of images in one batch."""
        return self._options.evaluation.batch_size

    def ask(self, image: Given, prefix: str) -> PredictionRow:
        """Answer a prompt about an image.

        Args:
            image: a file, an open image, or an array of uint8 (height, width, 3).
            prefix: the prompt, such as `detect cat`.

        Returns:
            A prediction row: `prediction`, `confidence`, and boxes and masks in `prediction_objects`.

        Raises:
            UserError: the image cannot be decoded, or the prompt is not a text.
        """
        if not isinstance(prefix, str):
            raise UserError(f"prefix: expected a text, but got {describe(prefix)}.")
        faults: list[str] = []
        examples = self.build_examples(name_images([image]), prefix, faults)
        if faults:
            raise UserError(faults[0])
        [row] = self.predict(examples)
        return row

    def build_examples(
        self, sources: Sequence[tuple[str, ImageSource]], prefix: str, faults: list[str]
    ) -> list[Example]:
        """Decode named images; add a message to `faults` for each that cannot be decoded."""
        antialias = choose_antialias(self._options, "validation")
        # A prompt may belong to any part of a mixture: antialias only if all of them do.
        smooth = all((antialias or {}).values())
        examples = []
        for name, source in sources:
            try:
                image = _decode(source, name, as_stored=antialias is not None)
            except UserError as error:
                faults.append(str(error).removeprefix("predict: "))
                continue
            examples.append(Example(name, (image,), prefix, (), antialias=smooth))
        return examples

    def predict(self, examples: Sequence[Example]) -> list[PredictionRow]:
        """Generate an answer to each example, and return them as prediction rows."""
        if not examples:
            return []
        collator = Collator(self.processor, resize=self._options.image.resize)
        batches = [(collator.build_prompts(examples), examples)]
        autocast = half_precision(self._options.trainer)
        generation = self._options.evaluation
        [(_, answers)] = answer_batches(self.model, batches, collator.tokenizer, generation, autocast)
        return [
            build_row(example, answer, self._reader)
            for example, answer in zip(examples, answers, strict=True)
        ]


def name_images(sources: Sequence[Given]) -> list[tuple[str, ImageSource]]:
    """Return images with their names: a file's path, or an open image's position in the list.

    Raises:
        UserError: one of them is neither a file nor an image.
    """
    images = map(_open, sources)
    return [
        (str(image) if isinstance(image, Path) else str(number), image)
        for number, image in enumerate(images)
    ]


def _open(source: object) -> ImageSource:
    if isinstance(source, str | PathLike):
        return Path(source)
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, np.ndarray):
        if source.dtype == np.uint8 and source.ndim == 3 and source.shape[2] == 3 and source.size:
            return Image.fromarray(source)
        got = f"an array of {source.dtype} {source.shape}"
    else:
        got = describe(source)
    raise UserError(
        "image: expected a file, an image opened with PIL, or an array of uint8 with the shape (height, "
        f"width, 3), but got {got}."
    )


def _decode(source: ImageSource, name: str, as_stored: bool) -> Image.Image:
    if isinstance(source, Path):
        return Picture(name, "predict").load(as_stored=as_stored)
    try:
        return convert_image(source, as_stored)
    except (OSError, ValueError) as error:
        raise UserError(f"image `{name}` cannot be decoded: {error}") from error


def build_reader(options: Predict, folder: RunFolder) -> ObjectReader:
    """Return a reader of boxes, and of masks if the run or the task has weights for them."""
    objects = object_options(options.task)
    reader = ObjectReader() if objects is None else objects.build().reader
    if options.run is not None and folder.mask_vae.is_file():
        return replace(reader, mask_vae=str(folder.mask_vae))
    return (
        reader if reader.mask_vae is None else replace(reader, mask_vae=str(find_mask_vae(reader.mask_vae)))
    )


def build_row(example: Example, answer: Answer, reader: ObjectReader) -> PredictionRow:
    """Return an answer as a prediction row."""
    row: PredictionRow = {
        "image": example.id,
        "prefix": example.prefix,
        "prediction": answer.text,
        "confidence": round(answer.confidence, 4),
    }
    if answer.unfinished:
        row["unfinished"] = True
    if "<loc" in answer.text:
        width, height = example.images[0].size
        objects = reader.read(answer.text, (height, width), answer.token_ends, answer.probabilities)
        for obj in objects:
            obj["box_xyxy"] = [round(side, 2) for side in obj["box_xyxy"]]
        row |= {"width": width, "height": height, "prediction_objects": objects}
    return row
