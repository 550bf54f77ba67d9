"""VQAv2: questions and annotations in two files, ten answers each, photos of COCO 2014."""

from collections.abc import Iterator
from pathlib import Path

from finetune.data.images import resolve_image
from finetune.data.reading.faults import Faults
from finetune.data.reading.json import check_file, iterate_records, read_member
from finetune.data.reading.record import Record, describe_value
from finetune.data.rows import Row, text_features
from finetune.errors import UserError

SPLITS = ("train", "val")
FEATURES = text_features("question", lists=("answers",))


def read(faults: Faults, root: str, split: str) -> Iterator[Row]:
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
) -> Iterator[Row]:
    """Join questions and annotations on `question_id`, in the order of the annotations.

    Args:
        faults: what to do with a question that cannot be used.
        questions: the file of the questions.
        annotations: the file of the answers.
        image_dir: folder of `COCO_<subset>_<image id>.jpg`.
        subset: `train2014` or `val2014`; None: as stated in the file of the questions.
        group: the key of the annotations whose values are the groups.
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
            question_id = item.identifier("question_id")
            item.where = f"{annotations}: question {question_id}"
            if question_id not in asked:
                raise UserError(f"{item.where} is not in {questions}. Do the two files belong together?")
            image_id, question = asked[question_id]
            if "image_id" in item and item.integer("image_id") != image_id:
                raise UserError(
                    f"{item.where}: `image_id` is {item['image_id']}, but {image_id} in {questions}."
                )
            yield {
                "id": question_id,
                "group": item.optional_text(group),
                "image": resolve_image(f"COCO_{subset}_{image_id:012d}.jpg", Path(image_dir), item.where),
                "question": question,
                "answers": _read_answers(item),
            }
    if empty and not faults.found:
        raise UserError(f"{annotations}: no items in `annotations`.")


def _read_asked(faults: Faults, questions: str) -> dict[str, tuple[int, str]]:
    """Return image id and text of each question, by its id."""
    asked: dict[str, tuple[int, str]] = {}
    for _, item in iterate_records(faults, Path(questions), "questions"):
        with faults.skipping():
            question_id = item.identifier("question_id")
            if question_id in asked:
                raise UserError(f"{item.where}: question {question_id} is duplicated; ids must be unique.")
            asked[question_id] = (item.integer("image_id", range(10**12)), item.text("question"))
    return asked


def _read_answers(item: Record) -> list[str]:
    answers = item.records("answers")
    if len(answers) != 10:
        raise UserError(f"{item.where} has {len(answers)} answers, not the ten that it is scored by.")
    return [answer.text("answer") for answer in answers]


def _find_subset(questions: str) -> str:
    """Return `train2014` or `val2014`, as stated in the file."""
    subset = read_member(Path(questions), "data_subtype")
    if subset not in ("train2014", "val2014"):
        shown = describe_value(subset)
        raise UserError(f'{questions}: expected `data_subtype` "train2014" or "val2014", got {shown}.')
    return subset
