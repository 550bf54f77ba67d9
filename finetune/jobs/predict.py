"""Ask a finished run (run=FOLDER), or any checkpoint and adapter, about images of your own.

`image=` is a file or a folder, `prefix=` the prompt. Each answer is a JSON object, one a line, on standard
output: `image`, `prefix`, `prediction`, `confidence`, and where the answer has locations `width`, `height`
and `prediction_objects` with boxes in pixels, masks as run lengths and scores. `out=FOLDER` also gets the
images, with what was found drawn in. An image that cannot be decoded is left out and named at the end, with
exit code 2.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import nn
from transformers import PaliGemmaProcessor

from finetune.assembly.finished import load_trained, resolve_finished_run
from finetune.assembly.mask_codec import find_mask_vae
from finetune.assembly.model import half_precision
from finetune.assembly.pixels import choose_antialias
from finetune.codecs.objects import ObjectReader
from finetune.config.jobs import Predict
from finetune.data.batches.collator import Collator
from finetune.data.images import IMAGE_SUFFIXES, Picture
from finetune.errors import UserError, print_json
from finetune.example import Example, PredictionRow
from finetune.generation.generate import answer_batches
from finetune.model.load import load_config, load_processor
from finetune.report.draw import draw_prediction
from finetune.run.files import explain_disk_errors
from finetune.run.folder import Launch, RunFolder
from finetune.run.log import set_up_logging
from finetune.tasks.task import Answer


def run(config: Predict, launch: Launch) -> None:
    """Print the answers.

    Raises:
        UserError: no image or prompt, an image cannot be read, or model and adapter do not fit.
    """
    set_up_logging()
    folder = RunFolder(launch.folder)
    if config.prefix is None:
        raise UserError(f'Which prompt? prefix="..."{_prompt_of(folder) if config.run else "."}')
    files = find_pictures(config.picture)
    check_headers(files)
    names = (
        None if config.out is None else name_pictures(files, Path(str(config.picture)), Path(config.out))
    )
    config = resolve_finished_run(config, folder)
    reader = build_reader(config, folder)
    processor = load_processor(config.model.path, config.model.revision)
    model = load_trained(config, load_config(config.model.path, config.model.revision, None))
    broken: list[str] = []
    for examples, answers in ask(config, model, processor, files, broken):
        for example, answer in zip(examples, answers, strict=True):
            row = build_row(example, answer, reader)
            print_json(row)
            if names is not None:
                with explain_disk_errors(names[example.id].parent):
                    names[example.id].parent.mkdir(parents=True, exist_ok=True)
                    draw_prediction(example.images[0], row).save(names[example.id])
    if broken:
        more = f" And {len(broken) - 3} more." if len(broken) > 3 else ""
        raise UserError(f"{len(broken)} of {len(files)} images were left out: {' '.join(broken[:3])}{more}")


def ask(
    config: Predict,
    model: nn.Module,
    processor: PaliGemmaProcessor,
    files: Sequence[Path],
    broken: list[str],
) -> Iterator[tuple[list[Example], list[Answer]]]:
    """Yield images and an answer to each, batch by batch; see `_decode` for `broken`."""
    collator, size = Collator(processor, resize=config.image.resize), config.evaluation.batch_size
    parts = (_decode(config, files[start : start + size], broken) for start in range(0, len(files), size))
    batches = ((collator.build_prompts(examples), examples) for examples in parts if examples)
    autocast = half_precision(config.trainer)
    return answer_batches(model, batches, collator.tokenizer, config.evaluation, autocast)


def _decode(config: Predict, files: Sequence[Path], broken: list[str]) -> list[Example]:
    """Decode some images; what cannot be decoded is added to `broken`, with the reason."""
    antialias = choose_antialias(config, "validation")
    examples = []
    for file in map(str, files):
        try:
            image = Picture(file, "predict").load(as_stored=antialias is not None)
        except UserError as error:
            broken.append(str(error).removeprefix("predict: "))
            continue
        # Of a mixture's parts any may be asked.
        smooth = all((antialias or {}).values())
        examples.append(Example(file, (image,), str(config.prefix), (), antialias=smooth))
    return examples


def find_pictures(image: str | None) -> list[Path]:
    """Return the image, or all in a folder and those below it, by name.

    Raises:
        UserError: there is none.
    """
    if image is None:
        raise UserError("Which picture? image=FILE or image=FOLDER.")
    path = Path(image)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"No picture {image}. Paths are relative to the current folder.")
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise UserError(f"{image} holds no picture ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    return found


def check_headers(files: Sequence[Path]) -> None:
    """Read the header of every image, before any weights are read.

    Raises:
        UserError: names those that are no images.
    """
    faults = []
    for file in map(str, files):
        try:
            Picture(file, "predict").size()
        except UserError as error:
            faults.append(str(error).removeprefix("predict: "))
    if faults:
        more = f" And {len(faults) - 3} more of {len(files)}." if len(faults) > 3 else ""
        raise UserError(f"{' '.join(faults[:3])}{more}")


def name_pictures(files: Sequence[Path], source: Path, out: Path) -> dict[str, Path]:
    """Return where each drawn image goes: below `out`, under the name of the original, as PNG.

    Args:
        files: the images.
        source: the folder that they were found in, or the one image itself.
        out: the folder for the drawn ones.

    Raises:
        UserError: `out` is a file, or an image would be overwritten by its own drawing.
    """
    taken = next((path for path in (out, *out.parents) if path.exists() and not path.is_dir()), None)
    if taken is not None:
        raise UserError(f"out={out}: {taken} is a file. Expected a folder for the drawn images.")
    inside = {file: file.relative_to(source) if source.is_dir() else Path(file.name) for file in files}
    stems = {name.with_suffix("") for name in inside.values()}
    whole = len(stems) < len(files)  # cat.jpg and cat.png
    names = {
        str(file): out / (name.with_name(f"{name.name}.png") if whole else name.with_suffix(".png"))
        for file, name in inside.items()
    }
    originals = {file.resolve() for file in files}
    for target in names.values():
        if target.resolve() in originals:
            raise UserError(f"out={out}: {target} is one of the images itself. Choose another folder.")
    return names


def build_reader(config: Predict, folder: RunFolder) -> ObjectReader:
    """Return what reads boxes, and masks where the run or the task has weights for them."""
    divisor = getattr(config.task, "divisor", 1023)
    if config.run is not None and folder.mask_vae.is_file():
        return ObjectReader(divisor, str(folder.mask_vae))
    setting = getattr(config.task, "mask_vae", None) if getattr(config.task, "masks", False) else None
    return ObjectReader(divisor, None if setting is None else str(find_mask_vae(setting)))


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
        for one in objects:
            one["box_xyxy"] = [round(side, 2) for side in one["box_xyxy"]]
        row |= {"width": width, "height": height, "prediction_objects": objects}
    return row


def _prompt_of(folder: RunFolder) -> str:
    """Return one of the prompts that the run was evaluated with, for the message."""
    try:
        with (folder.predictions / "validation.jsonl").open(encoding="utf-8") as lines:
            return f", such as this run's own: prefix={json.loads(next(lines))['prefix']!r}"
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return "."
