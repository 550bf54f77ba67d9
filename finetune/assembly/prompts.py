"""What `predict` asks: images with their prompts, before any weights are read."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from glob import glob, has_magic  # a Path's own has no absolute patterns
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from finetune.assembly.custom import instantiate
from finetune.config.job import Asking
from finetune.data.images import IMAGE_SUFFIXES
from finetune.data.reading.json import open_text
from finetune.errors import UserError, describe
from finetune.example import AnswerForm
from finetune.strict_json import parse_json
from finetune.tasks.asking import check_text, write_prefixes
from finetune.tasks.grammar import Grammar, build_form
from finetune.tasks.mixture import MixedTask

ImageSource = Path | Image.Image
Given = str | ImageSource | np.ndarray[Any, Any]
"""A file, an image opened with PIL, or an array of uint8 (height, width, 3)."""

Named = tuple[str, ImageSource]
"""An image with its name: a file's path, or an open image's position in the list."""


Rows = Iterable[tuple[str, Mapping[str, object]]]
"""Where each prompt stands, and its `image`, `prefix` or fields."""


class Wording(NamedTuple):
    """What is asked where a row does not say it itself."""

    prefix: str | None = None
    """The whole prompt; None: that of the task."""
    fields: Mapping[str, object] = MappingProxyType({})
    """What is in the task's prompt."""
    example: str = ""
    """A prompt that the run was evaluated with, for messages."""


class Prompt(NamedTuple):
    """One prompt about one image."""

    name: str
    """Of the image."""
    image: ImageSource
    prefix: str
    form: AnswerForm | None = None
    """What the answer may be; None: anything."""

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from others."""
        return self.name, self.prefix


def build_prompts(
    options: Asking, wording: Wording, images: Sequence[Named], rows: Rows | None = None
) -> list[Prompt]:
    """Return the prompts, none of them twice.

    Args:
        options: have the task and the grammar.
        wording: of rows that do not say it themselves.
        images: those that every prompt without an image of its own is asked about.
        rows: the prompts; None: one for all images.

    Raises:
        UserError: there is no image or no prompt, the task has no such field, or the grammar does not fit.
    """
    is_plain = wording.prefix is not None and options.evaluation.grammar == Grammar.none and rows is None
    task = None if is_plain else build_prompt_task(options)
    if rows is None and not images:
        raise UserError("Which image? image=FILE or image=FOLDER.")
    prompts: dict[tuple[str, str], Prompt] = {}
    for number, (where, row) in enumerate([("", {})] if rows is None else rows):
        try:
            # An open image is named by its place: those that all prompts are about come first.
            own = [] if row.get("image") is None else name_images([row["image"]], len(images) + number)
            for prompt in _build_row(options, wording, task, own or images, row):
                prompts.setdefault(prompt.key, prompt)
        except UserError as error:
            raise UserError(f"{where}: {error}" if where else str(error)) from error
    return list(prompts.values())


def _build_row(
    options: Asking, wording: Wording, task: object, images: Sequence[Named], row: Mapping[str, object]
) -> Iterator[Prompt]:
    if not images:
        raise UserError("expected `image`, the path of a file, or image= for prompts without one.")
    fields = {**wording.fields, **row}
    if row.get("prefix") is not None:
        prefixes: tuple[str, ...] = (check_text("prefix", row["prefix"]),)
    elif wording.prefix is not None:
        prefixes = (wording.prefix,)
    else:
        prefixes = write_prefixes(task, fields, list(wording.fields), wording.example)
    for prefix in prefixes:
        if not prefix.strip() and wording.example.strip():
            raise UserError(
                f"The prompt is empty. The run was evaluated with others, such as {wording.example!r}."
            )
        form = build_form(task, options.evaluation.grammar, fields, prefix)
        yield from (Prompt(name, image, prefix, form) for name, image in images)


def build_prompt_task(options: Asking) -> object:
    """Return the run's task, which words prompts."""
    dataset = options.dataset
    parts = {} if dataset is None or isinstance(dataset, dict) else dataset.mixed_parts()
    if parts:
        return MixedTask({name: instantiate(part.task, "task") for name, part in parts.items()})
    return instantiate(options.task, "task")


def number_rows(rows: object) -> Rows:
    """Return the rows of a program with their places.

    Raises:
        UserError: they are not a list of dicts, or there are none.
    """
    if not isinstance(rows, list | tuple) or not rows:
        raise UserError(f"prompts: expected a file, or a list of dicts, but got {describe(rows)}.")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise UserError(f"prompts item {number}: expected a dict, but got {describe(row)}.")
    return [(f"prompts item {number}", row) for number, row in enumerate(rows, 1)]


def read_prompts(file: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the place and the values of each line of a JSONL file.

    Raises:
        UserError: the file cannot be read, or a line is not an object; names the line.
    """
    count = 0
    with open_text(file) as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            count += 1
            where = f"{file} line {number}"
            try:
                row = parse_json(line)
            except ValueError as error:
                raise UserError(f"{where}: not JSON ({error}).") from error
            if not isinstance(row, dict):
                raise UserError(f"{where}: expected an object, but got {describe(row)}.")
            if row.get("image") is not None:
                row["image"] = _find_image(check_text(f"{where}: image", row["image"]), file.parent)
            yield where, row
    if not count:
        raise UserError(f"{file} has no prompts: it is empty.")


def _find_image(name: str, folder: Path) -> str:
    """Return the path of an image next to a file, or below the current folder."""
    beside = folder / name
    return str(beside if beside.is_file() else name)


def find_images(image: str, out: Path | None = None) -> tuple[list[Path], Path | None]:
    """Return the files that `image=` names, and the folder if it names one.

    Args:
        image: a file, a folder with its subfolders, a pattern, or several of these with commas between.
        out: a folder to leave out: it has the drawings of an earlier command.

    Raises:
        UserError: there are none, or `out` is their folder.
    """
    path = Path(image).expanduser()
    if path.suffix.lower() in {".json", ".jsonl"} and path.is_file():
        raise UserError(f"{image} is not an image. For a file with a prompt a line: prompts={image}.")
    if path.is_dir():
        return _list_folder(path, out), path
    if path.is_file():
        return [path], None
    parts = [part.strip() for part in image.split(",")]
    if len(parts) > 1:
        files = [file for part in parts for file in find_images(part, out)[0]]
        return list(dict.fromkeys(files)), None
    if has_magic(image):
        found = (Path(name) for name in sorted(glob(str(path), recursive=True)))  # noqa: PTH207
        if files := [file for file in found if _is_image(file)]:
            return files, None
        raise UserError(f"image={image} matches no image ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    raise UserError(f"No image {image}. Paths are relative to the current folder.")


def _list_folder(folder: Path, out: Path | None) -> list[Path]:
    outside = None if out is None else out.resolve()
    if outside == folder.resolve():
        raise UserError(f"out={out} is the folder of the images itself. Choose another folder.")
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if _is_image(file) and (outside is None or not file.resolve().is_relative_to(outside))
    ]
    if not files:
        raise UserError(f"{folder} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    return files


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()


def name_images(sources: Iterable[object], first: int = 0) -> list[Named]:
    """Return images with their names.

    Args:
        sources: files, open images or arrays.
        first: position of the first one.

    Raises:
        UserError: one of them is neither a file nor an image.
    """
    images = map(_open, sources)
    return [
        (str(image) if isinstance(image, Path) else str(number), image)
        for number, image in enumerate(images, first)
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
