"""A finished model that answers prompts about images."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from PIL import Image
from torch import nn
from transformers import PaliGemmaProcessor

from finetune.assembly.custom import object_options
from finetune.assembly.data import LONGEST_REFERENCE
from finetune.assembly.detections import decode_row_masks, to_supervision
from finetune.assembly.finished import load_trained, resolve_finished_run
from finetune.assembly.mask_codec import find_mask_vae
from finetune.assembly.model import half_precision
from finetune.assembly.pixels import choose_antialias
from finetune.assembly.prompts import (
    Given,
    ImageSource,
    Prompt,
    Wording,
    build_prompts,
    find_images,
    name_images,
    number_rows,
)
from finetune.codecs.objects import ObjectReader
from finetune.config.job import Asking
from finetune.data.batches.collator import Collator
from finetune.data.images import Picture, convert_image
from finetune.errors import UserError, describe
from finetune.example import Example, PredictionRow
from finetune.generation.generate import answer_batches
from finetune.model.load import load_config, load_processor
from finetune.run.folder import RunFolder
from finetune.tasks.task import Answer

if TYPE_CHECKING:
    from supervision import Detections

log = logging.getLogger(__name__)

_AT_ONCE = 16
"""Prompts in a batch where nothing says how many; an answer is reported when its batch is finished."""


class Predictor:
    """A run's model or any checkpoint with its processor, on this process's device.

    Args:
        options: name the model and the settings of generation.
        folder: folder of the run, if any.

    Attributes:
        model: the model with its adapter, in evaluation mode.
        processor: processor of the checkpoint.
        classes: the classes of the run's task, in its order; others that were found follow.
        batch_size: prompts in one batch; halved where they do not fit into the memory of the device.

    Raises:
        UserError: the run is not finished, or model and adapter do not fit.
    """

    def __init__(self, options: Asking, folder: RunFolder) -> None:
        options = resolve_finished_run(options, folder)
        path, revision = options.model.path, options.model.revision
        self._options = options
        self._reader = build_reader(options, folder)
        self.batch_size = options.evaluation.batch_size or _AT_ONCE
        self.classes = list_classes(options)
        self.processor: PaliGemmaProcessor = load_processor(path, revision)
        self.model: nn.Module = load_trained(options, load_config(path, revision, None))

    @overload
    def __call__(
        self,
        images: Given | Sequence[Given],
        prefix: str | None = None,
        *,
        as_: Literal["rows"] = "rows",
        **fields: object,
    ) -> list[PredictionRow]: ...

    @overload
    def __call__(
        self,
        images: Given | Sequence[Given],
        prefix: str | None = None,
        *,
        as_: Literal["supervision"],
        **fields: object,
    ) -> "list[Detections]": ...

    def __call__(
        self,
        images: Given | Sequence[Given],
        prefix: str | None = None,
        *,
        as_: str = "rows",
        **fields: object,
    ) -> "list[PredictionRow] | list[Detections]":
        """Answer a prompt about each image, in batches.

        Args:
            images: open images, files, or arrays of uint8 (height, width, 3); or a single one.
            prefix: the prompt, such as `detect cat`; None: the prompt of the run's task.
            as_: `rows`, or `supervision` for `supervision.Detections`.
            fields: what is in the prompt, such as `question` or `labels`.

        Returns:
            One prediction row, or one `Detections`, for each image, in their order.

        Raises:
            UserError: an image cannot be decoded, or the task has no such prompt or asks several.
        """
        if as_ not in {"rows", "supervision"}:
            raise UserError(f"as_: expected rows or supervision, but got {describe(as_)}.")
        listed = [images] if isinstance(images, str) or not isinstance(images, Sequence) else images
        if not listed:
            return []
        names = [name for name, _ in name_images(listed)]
        prompts = self._build(listed, prefix, fields)
        if len(prompts) > len(set(names)):
            raise UserError("The task asks several prompts about an image: call `ask_all`.")
        # The same file may be given twice.
        rows = {row["image"]: row for row in self._answer_all(prompts)}
        answers = [rows[name] for name in names]
        return answers if as_ == "rows" else [self.to_supervision(row) for row in answers]

    def to_supervision(self, row: Mapping[str, Any]) -> "Detections":
        """Return the boxes and masks of a row as `supervision.Detections`; see `detections.py`."""
        return to_supervision(row, self.classes)

    def masks(self, row: Mapping[str, Any]) -> np.ndarray | None:
        """Return the masks of a row's objects: (N, height, width) bool; None if there are none."""
        return decode_row_masks(row)

    def ask(self, image: Given, prefix: str | None = None, **fields: object) -> PredictionRow:
        """Answer a prompt about an image.

        Args:
            image: a file, an open image, or an array of uint8 (height, width, 3).
            prefix: the prompt, such as `detect cat`; None: the prompt of the run's task.
            fields: what is in it, such as `question` or `labels`.

        Returns:
            A prediction row: `prediction`, `confidence`, and boxes and masks in `prediction_objects`.

        Raises:
            UserError: the image cannot be decoded, or the task has no such prompt.
        """
        prompts = self._build([image], prefix, fields)
        if len(prompts) > 1:
            raise UserError(f"The task asks {len(prompts)} prompts about an image: call `ask_all`.")
        [row] = self._answer_all(prompts)
        return row

    def ask_all(
        self,
        images: Given | Sequence[Given] = (),
        prefix: str | None = None,
        prompts: Sequence[Mapping[str, object]] | None = None,
        **fields: object,
    ) -> list[PredictionRow]:
        """Answer prompts about images.

        Args:
            images: as in `finetune.predict(image=...)`: a file, a folder, an open image, or a list.
            prefix: see `ask`.
            prompts: prompts with their own `image`, `prefix` or fields, as in a file of prompts.
            fields: see `ask`.

        Returns:
            The rows; those of one image are next to each other unless `prompts` are given.

        Raises:
            UserError: an image cannot be decoded, or the task has no such prompt.
        """
        given = find_images(str(images))[0] if isinstance(images, str | Path) else images
        listed = given if isinstance(given, Sequence) else [given]
        return self._answer_all(self._build(listed, prefix, fields, prompts))

    def _build(
        self,
        images: Sequence[Given],
        prefix: object,
        fields: Mapping[str, object],
        rows: Sequence[Mapping[str, object]] | None = None,
    ) -> list[Prompt]:
        if not isinstance(prefix, str | None):
            raise UserError(f"prefix: expected a text, but got {describe(prefix)}.")
        plain = Wording(self._options.prefix, self._options.fields)
        wording = plain if prefix is None and not fields else Wording(prefix, fields)
        numbered = None if rows is None else number_rows(rows)
        return build_prompts(self._options, wording, name_images(images), numbered)

    def check_lengths(self, prompts: Sequence[Prompt]) -> None:
        """Check that no prompt is longer than the texts that an evaluation takes.

        Raises:
            UserError: one is.
        """
        most = max(LONGEST_REFERENCE, self._options.collator.max_text_length)
        first = {prompt.prefix: prompt.name for prompt in reversed(prompts)}
        for prefix, name in reversed(first.items()):
            tokens = len(self.processor.tokenizer(f"{prefix}\n")["input_ids"])
            if tokens > most:
                raise UserError(
                    f"The prompt of image `{name}` is too long: it has {tokens:,} text tokens, the limit "
                    f"is {most:,}. It begins with {prefix[:40]!r}. Shorten it, or raise "
                    "collator.max_text_length."
                )

    def _answer_all(self, prompts: Sequence[Prompt]) -> list[PredictionRow]:
        self.check_lengths(prompts)
        rows = []
        while prompts:
            faults: dict[str, str] = {}
            batch, prompts = prompts[: self.batch_size], prompts[self.batch_size :]
            examples = self.build_examples(batch, faults)
            if faults:
                raise UserError(next(iter(faults.values())))
            rows += self.answer(examples)
        return rows

    def build_examples(self, prompts: Sequence[Prompt], faults: dict[str, str]) -> list[Example]:
        """Decode the images; add a message to `faults` for each that cannot be decoded, by its name."""
        antialias = choose_antialias(self._options, "validation")
        # A prompt may belong to any part of a mixture: antialias only if all of them do.
        smooth = all((antialias or {}).values())
        images: dict[str, Image.Image] = {}
        examples = []
        for prompt in prompts:
            name = prompt.name
            try:
                if name not in images:
                    images[name] = decode_image(prompt.image, name, as_stored=antialias is not None)
            except UserError as error:
                faults[name] = str(error).removeprefix("predict: ")
                continue
            examples.append(
                Example(name, (images[name],), prompt.prefix, (), antialias=smooth, form=prompt.form)
            )
        return examples

    def answer(self, examples: Sequence[Example]) -> list[PredictionRow]:
        """Generate an answer to each example, in smaller batches where memory is short.

        Raises:
            UserError: the device has no memory for a single prompt.
        """
        if not examples:
            return []
        collator = Collator(
            self.processor,
            resize=self._options.image.resize,
            uint8_pixels=self._options.trainer.speed.uint8_pixels,
        )
        answered = answer_batches(
            self.model,
            [(collator.build_prompts(examples), examples)],
            collator.tokenizer,
            replace(self._options.evaluation, batch_size=self.batch_size),
            half_precision(self._options.trainer),
            on_shrink=self._shrink,
        )
        [(_, answers)] = answered
        return [
            build_row(example, answer, self._reader)
            for example, answer in zip(examples, answers, strict=True)
        ]

    def _shrink(self, size: int) -> None:
        self.batch_size = size


def list_classes(options: Asking) -> list[str]:
    """Return the classes of the run's task, or of those of its mixture."""
    dataset = options.dataset
    parts = {} if dataset is None or isinstance(dataset, dict) else dataset.mixed_parts()
    tasks = [part.task for part in parts.values()] or [options.task]
    objects = [object_options(task) for task in tasks]
    return list(dict.fromkeys(name for one in objects if one is not None for name in one.labels or ()))


def decode_image(source: ImageSource, name: str, as_stored: bool = False) -> Image.Image:
    """Return an image as a model is asked about it.

    Raises:
        UserError: it cannot be decoded.
    """
    if isinstance(source, Path):
        return Picture(name, "predict").load(as_stored=as_stored)
    try:
        return convert_image(source, as_stored)
    except (OSError, ValueError) as error:
        raise UserError(f"image `{name}` cannot be decoded: {error}") from error


def build_reader(options: Asking, folder: RunFolder) -> ObjectReader:
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
