"""VQAv2: questions and annotations in two files, ten answers each, photos of COCO 2014."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finetune.data.images import resolve_image
from finetune.data.published import Vqav2, Vqav2Files
from finetune.data.reading.faults import Faults
from finetune.data.reading.json import Record, check_file, describe_value, iterate_records, read_member
from finetune.data.rows import Built, Splits, build_rows, text_features
from finetune.errors import UserError

SPLITS = ("train", "val")
FEATURES = text_features("question", lists=("answers",))


def load_vqav2(source: Vqav2) -> Splits:
    """Load both splits from wherever they are given; local files win over the Hub.

    Raises:
        UserError: names the file, the question and the remedy.
    """
    train, validation = source.train, source.validation
    if source.root is not None:
        return source.as_release().load()
    if validation.questions is None:
        return source.hub.load()
    first = _build("train", train, source.on_error) if train.questions else None
    second = _build("validation", validation, source.on_error)
    if first is None:
        return Splits(second.rows.select([]), second.rows, tuple(second.skipped))
    return Splits(first.rows, second.rows, (*first.skipped, *second.skipped))


def _build(split: str, given: Vqav2Files, on_error: str) -> Built:
    files = vars(given)
    for key, value in files.items():
        if value is None:
            raise UserError(f"dataset.{split}.{key}= is missing, as other files of VQAv2 are given.")
    folder = os.path.realpath(files["image_dir"])
    paths = ("questions", "annotations")
    return build_rows(read_questions, FEATURES, on_error, paths=paths, **{**files, "image_dir": folder})


def read(faults: Faults, root: str, split: str) -> Iterator[dict[str, Any]]:
    """Read `v2_OpenEnded_mscoco_*_questions.json`, `v2_mscoco_*_annotations.json` and `train2014/`."""
    folder, subset = Path(root), f"{split}2014"
    return read_questions(
        faults,
        str(folder / f"v2_OpenEnded_mscoco_{subset}_questions.json"),
        str(folder / f"v2_mscoco_{subset}_annotations.json"),
        str(folder / subset),
    )


def read_questions(
    faults: Faults,
    questions: str,
    annotations: str,
    image_dir: str,
    subset: str | None = None,
    group: str = "answer_type",
) -> Iterator[dict[str, Any]]:
    """Join on `question_id`, in the order of the annotations.

    Args:
        faults: what to do with a question that cannot be used.
        questions: the file of the questions.
        annotations: the file of the answers.
        image_dir: folder of `COCO_<subset>_<image id>.jpg`.
        subset: `train2014` or `val2014`; null: as the questions' file says.
        group: the annotations' key that a score is broken down by.

    Raises:
        UserError: names the file, the question and the remedy.
    """
    for file in (questions, annotations):
        check_file(Path(file))
    if not Path(image_dir).is_dir():
        raise UserError(f"No folder {image_dir}.")
    subset = subset or _find_subset(questions)
    asked = _read_asked(faults, questions)
    empty = True
    for _, item in iterate_records(faults, Path(annotations), "annotations"):
        empty = False
        with faults.skipping():
            row = _join(item, asked, subset, Path(image_dir), annotations, questions)
            yield {**row, "group": item.optional_text(group)}
    if empty and not faults.found:
        raise UserError(f"{annotations}: no items in `annotations`.")


def _read_asked(faults: Faults, questions: str) -> dict[str, tuple[int, str]]:
    """Return image id and text of each question, by its id."""
    asked: dict[str, tuple[int, str]] = {}
    for _, item in iterate_records(faults, Path(questions), "questions"):
        with faults.skipping():
            question_id = item.identifier("question_id")
            if question_id in asked:
                raise UserError(f"{item.where}: question {question_id} is there twice; ids must differ.")
            asked[question_id] = (item.integer("image_id", range(10**12)), item.text("question"))
    return asked


def _join(
    item: Record,
    asked: Mapping[str, tuple[int, str]],
    subset: str,
    folder: Path,
    annotations: str,
    questions: str,
) -> dict[str, Any]:
    question_id = item.identifier("question_id")
    item.where = f"{annotations}: question {question_id}"
    if question_id not in asked:
        raise UserError(f"{item.where} is not in {questions}. Do the two files belong together?")
    image_id, question = asked[question_id]
    if "image_id" in item and item.integer("image_id") != image_id:
        raise UserError(f"{item.where}: `image_id` is {item['image_id']}, but {image_id} in {questions}.")
    answers = item.records("answers")
    if len(answers) != 10:
        raise UserError(f"{item.where} has {len(answers)} answers, not the ten that it is scored by.")
    return {
        "id": question_id,
        "image": resolve_image(f"COCO_{subset}_{image_id:012d}.jpg", folder, item.where),
        "question": question,
        "answers": [answer.text("answer") for answer in answers],
    }


def _find_subset(questions: str) -> str:
    """Return `train2014` or `val2014`, as the file says."""
    subset = read_member(Path(questions), "data_subtype")
    if subset not in ("train2014", "val2014"):
        shown = describe_value(subset)
        raise UserError(f'{questions}: expected `data_subtype` "train2014" or "val2014", got {shown}.')
    return subset
