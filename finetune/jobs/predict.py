"""Ask a finished run (run=FOLDER), or any checkpoint and adapter, about pictures of your own.

`image=` is a file or a folder, `prefix=` the prompt. Each answer is a JSON object, one a line, on standard
output: `image`, `prefix`, `prediction`, `confidence`, and where the answer has locations `width`, `height`
and `prediction_objects` with boxes in pixels, masks as run lengths and scores. `out=FOLDER` also gets the
pictures, with what was found drawn in.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.codecs.objects import ObjectReader
from finetune.config.schema import RunConfig
from finetune.data.collator import Collator
from finetune.data.images import PICTURE_SUFFIXES, load_image
from finetune.errors import UserError
from finetune.evaluation.generate import Generation, generate_answers
from finetune.example import Example
from finetune.jobs.mask_codec import find_mask_vae
from finetune.jobs.parts import half_precision, set_up_logging
from finetune.jobs.trained import load_trained, point_at_result
from finetune.model.load import load_config, load_processor
from finetune.report.draw import draw_prediction
from finetune.run.folder import Launch, RunFolder
from finetune.tasks.task import Answer


def run(config: RunConfig, launch: Launch) -> None:
    """Print the answers.

    Raises:
        UserError: no picture or prompt, a picture cannot be read, or model and adapter do not fit.
    """
    set_up_logging()
    folder = RunFolder(launch.folder)
    if config.prefix is None:
        raise UserError(f'Which prompt? prefix="..."{_prompt_of(folder) if config.run else "."}')
    files = list(find_pictures(config.image))
    point_at_result(config, folder)
    reader = build_reader(config)
    processor = load_processor(config.model.path, config.model.revision)
    model = load_trained(config, load_config(config.model.path, config.model.revision, None))
    collator = Collator(processor)
    options = config.evaluation
    generation = Generation(
        max_new_tokens=options.max_new_tokens, num_beams=options.num_beams, batch_size=options.batch_size
    )
    device = next(model.parameters()).device
    for start in range(0, len(files), generation.batch_size):
        part = map(str, files[start : start + generation.batch_size])
        examples = [Example(file, (load_image(file, file),), config.prefix, ()) for file in part]
        batch = {**collator.build_prompt(examples), **collator.build_pixels(examples)}
        with half_precision(config):
            on_device = {name: value.to(device) for name, value in batch.items()}
            answers = generate_answers(model, on_device, processor.tokenizer, generation)
        for example, answer in zip(examples, answers, strict=True):
            row = build_row(example, answer, reader)
            print(json.dumps(row, ensure_ascii=False), flush=True)
            if config.out is not None:
                target = Path(config.out) / name_picture(Path(example.id), Path(str(config.image)))
                target.parent.mkdir(parents=True, exist_ok=True)
                draw_prediction(example.images[0], row).save(target)


def find_pictures(image: str | None) -> Iterator[Path]:
    """Yield the picture, or all in a folder and those below it, by name.

    Raises:
        UserError: there is none.
    """
    if image is None:
        raise UserError("Which picture? image=FILE or image=FOLDER.")
    path = Path(image)
    if path.is_file():
        yield path
        return
    if not path.is_dir():
        raise UserError(f"No picture {image}. Paths are relative to the current folder.")
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in PICTURE_SUFFIXES)
    if not found:
        raise UserError(f"{image} holds no picture ({', '.join(sorted(PICTURE_SUFFIXES))}).")
    yield from found


def build_reader(config: RunConfig) -> ObjectReader:
    """Return what reads boxes, and masks where the task has weights for them."""
    divisor = getattr(config.task, "divisor", 1023)
    setting = getattr(config.task, "mask_vae", None) if getattr(config.task, "masks", False) else None
    return ObjectReader(divisor, None if setting is None else str(find_mask_vae(setting)))


def build_row(example: Example, answer: Answer, reader: ObjectReader) -> dict[str, Any]:
    """Return an answer as a prediction row."""
    row: dict[str, Any] = {
        "image": example.id,
        "prefix": example.prefix,
        "prediction": answer.text,
        "confidence": round(answer.confidence, 4),
    }
    if "<loc" in answer.text:
        width, height = example.images[0].size
        objects = reader.read(answer.text, (height, width), answer.token_ends, answer.probabilities)
        row |= {"width": width, "height": height, "prediction_objects": objects}
    return row


def name_picture(file: Path, source: Path) -> Path:
    """Return a drawn picture's name inside `out`: that of the original below its folder, as PNG."""
    inside = file.relative_to(source) if source.is_dir() else Path(file.name)
    return inside.with_name(f"{inside.name}.png")


def _prompt_of(folder: RunFolder) -> str:
    """Return one of the prompts that the run was evaluated with, for the message."""
    rows = folder.predictions / "validation.jsonl"
    if not rows.is_file():
        return "."
    with rows.open(encoding="utf-8") as lines:
        return f", such as this run's own: prefix={json.loads(next(lines))['prefix']!r}"
