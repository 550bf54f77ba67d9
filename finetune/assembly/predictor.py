"""A finished model that answers prompts about images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn
from transformers import PaliGemmaProcessor

from finetune.assembly.finished import load_trained, resolve_finished_run
from finetune.assembly.mask_codec import find_mask_vae
from finetune.assembly.model import half_precision
from finetune.assembly.pixels import choose_antialias
from finetune.codecs.objects import ObjectReader
from finetune.config.jobs import Predict
from finetune.data.batches.collator import Collator
from finetune.data.images import Picture, convert_image
from finetune.errors import UserError
from finetune.example import Example
from finetune.generation.generate import answer_batches
from finetune.model.load import load_config, load_processor
from finetune.run.folder import RunFolder
from finetune.tasks.task import Answer

ImageSource = Path | Image.Image


class Predictor:
    """A run's model or any checkpoint with its processor, on this process's device.

    Args:
        options: name the model, and how answers are generated.
        folder: of the run, if there is one.

    Attributes:
        model: with its adapter, in evaluation mode.
        processor: the checkpoint's.

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
        """How many images are answered at once."""
        return self._options.evaluation.batch_size

    def ask(self, image: str | ImageSource, prefix: str) -> dict[str, Any]:
        """Answer a prompt about an image.

        Args:
            image: a file, or an image that is open.
            prefix: the prompt, such as `detect cat`.

        Returns:
            A prediction row: `prediction`, `confidence`, and boxes and masks in `prediction_objects`.

        Raises:
            UserError: the image cannot be decoded.
        """
        faults: list[str] = []
        examples = self.build_examples(name_images([image]), prefix, faults)
        if faults:
            raise UserError(faults[0])
        [row] = self.predict(examples)
        return row

    def build_examples(
        self, sources: Sequence[tuple[str, ImageSource]], prefix: str, faults: list[str]
    ) -> list[Example]:
        """Decode named images; a message for each that cannot be decoded is added to `faults`."""
        antialias = choose_antialias(self._options, "validation")
        # Any part of a mixture may be asked.
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

    def predict(self, examples: Sequence[Example]) -> list[dict[str, Any]]:
        """Generate one answer to each example, and return it as a prediction row."""
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


def name_images(sources: Sequence[str | ImageSource]) -> list[tuple[str, ImageSource]]:
    """Return images with their names: a file's path, or an open image's position in the list."""
    return [
        (str(number), source) if isinstance(source, Image.Image) else (str(source), Path(source))
        for number, source in enumerate(sources)
    ]


def _decode(source: ImageSource, name: str, as_stored: bool) -> Image.Image:
    if isinstance(source, Path):
        return Picture(name, "predict").load(as_stored=as_stored)
    try:
        return convert_image(source, as_stored)
    except (OSError, ValueError) as error:
        raise UserError(f"image `{name}` cannot be decoded: {error}") from error


def build_reader(config: Predict, folder: RunFolder) -> ObjectReader:
    """Return what reads boxes, and masks where the run or the task has weights for them."""
    divisor = getattr(config.task, "divisor", 1023)
    if config.run is not None and folder.mask_vae.is_file():
        return ObjectReader(divisor, str(folder.mask_vae))
    setting = getattr(config.task, "mask_vae", None) if getattr(config.task, "masks", False) else None
    return ObjectReader(divisor, None if setting is None else str(find_mask_vae(setting)))


def build_row(example: Example, answer: Answer, reader: ObjectReader) -> dict[str, Any]:
    """Return an answer as a prediction row."""
    row: dict[str, Any] = {
        "image": example.id,
        "prefix": example.prefix,
        "prediction": answer.text,
        "confidence": round(answer.confidence, 4),
        **({"unfinished": True} if answer.unfinished else {}),
    }
    if "<loc" in answer.text:
        width, height = example.images[0].size
        objects = reader.read(answer.text, (height, width), answer.token_ends, answer.probabilities)
        for one in objects:
            one["box_xyxy"] = [round(side, 2) for side in one["box_xyxy"]]
        row |= {"width": width, "height": height, "prediction_objects": objects}
    return row
