"""Ask a finished run (run=FOLDER), or any checkpoint and adapter, about your images.

`image=` is a file or a folder, `prefix=` the prompt. Each answer is a line with a JSON object on standard
output: `image`, `prefix`, `prediction`, `confidence`, and for an answer with locations `width`, `height`
and `prediction_objects` with boxes in pixels, masks as run lengths and scores. With `out=FOLDER` the images
are also written there, with the predicted objects drawn in. An image that cannot be decoded is left out and
named at the end, with exit code 2.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from finetune.assembly.predictor import Given, ImageSource, Predictor, name_images
from finetune.config.jobs import Predict
from finetune.data.images import IMAGE_SUFFIXES, Picture
from finetune.errors import UserError
from finetune.example import PredictionRow
from finetune.report.draw import draw_prediction
from finetune.result import PredictResult
from finetune.run.files import explain_disk_errors
from finetune.run.folder import Launch, RunFolder


def run(options: Predict, launch: Launch, images: Sequence[Given] | None = None) -> PredictResult:
    """Answer the prompt about each image.

    Args:
        options: name the model and, without `images`, a file or a folder.
        launch: how the job was started.
        images: files, open images or arrays.

    Returns:
        The rows, generated one batch at a time while they are iterated.

    Raises:
        UserError: no image or prompt, an image cannot be read, or model and adapter do not fit.
    """
    folder = RunFolder(launch.folder)
    if options.prefix is None:
        raise UserError(f'Which prompt? prefix="..."{_prompt_of(folder) if options.run else "."}')
    sources = name_images(find_pictures(options.picture) if images is None else images)
    files = [source for _, source in sources if isinstance(source, Path)]
    check_headers(files)
    names: dict[str, Path] = {}
    if options.out is not None:
        root = Path(options.picture) if options.picture is not None else Path()
        names = name_pictures(files, root, Path(options.out))
    left_out: list[str] = []
    rows = predict_rows(Predictor(options, folder), sources, options.prefix, names, left_out)
    return PredictResult(rows, left_out)


def predict_rows(
    predictor: Predictor,
    sources: Sequence[tuple[str, ImageSource]],
    prefix: str,
    names: dict[str, Path],
    left_out: list[str],
) -> Iterator[PredictionRow]:
    """Yield the answer to the prompt for each image, generated in batches.

    Args:
        predictor: the model.
        sources: the images with their names.
        prefix: the prompt.
        names: name of the image -> file for its drawing.
        left_out: a message is added for each image that cannot be decoded.
    """
    size = predictor.batch_size
    for start in range(0, len(sources), size):
        examples = predictor.build_examples(sources[start : start + size], prefix, left_out)
        for example, row in zip(examples, predictor.predict(examples), strict=True):
            yield row
            if (target := names.get(example.id)) is not None:
                with explain_disk_errors(target.parent):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    draw_prediction(example.images[0], row).save(target)


def find_pictures(image: str | None) -> list[Path]:
    """Return the image, or all images in a folder and its subfolders, sorted by name.

    Raises:
        UserError: there are none.
    """
    if image is None:
        raise UserError("Which image? image=FILE or image=FOLDER.")
    path = Path(image)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"No image {image}. Paths are relative to the current folder.")
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise UserError(f"{image} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    return files


def check_headers(files: Sequence[Path]) -> None:
    """Read the header of every image, before any weights are read.

    Raises:
        UserError: a file is not an image.
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
    """Return the file for the drawing of each image: a PNG below `out`, named after the image.

    Args:
        files: the images.
        source: the folder of the images, or the single image.
        out: the folder for the drawings.

    Raises:
        UserError: `out` is a file, or an image would be overwritten by its own drawing.
    """
    taken = next((path for path in (out, *out.parents) if path.exists() and not path.is_dir()), None)
    if taken is not None:
        raise UserError(f"out={out}: {taken} is a file. Expected a folder for the drawn images.")
    inside = {file: file.relative_to(source) if source.is_dir() else Path(file.name) for file in files}
    stems = {name.with_suffix("") for name in inside.values()}
    whole = len(stems) < len(files)  # cat.jpg and cat.png would both be cat.png
    names = {
        str(file): out / (name.with_name(f"{name.name}.png") if whole else name.with_suffix(".png"))
        for file, name in inside.items()
    }
    originals = {file.resolve() for file in files}
    for target in names.values():
        if target.resolve() in originals:
            raise UserError(f"out={out}: {target} is one of the images itself. Choose another folder.")
    return names


def _prompt_of(folder: RunFolder) -> str:
    """Return a prompt that the run was evaluated with, for the message."""
    try:
        with (folder.predictions / "validation.jsonl").open(encoding="utf-8") as lines:
            return f", such as this run's own: prefix={json.loads(next(lines))['prefix']!r}"
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return "."
