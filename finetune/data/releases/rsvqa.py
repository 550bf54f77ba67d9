"""RSVQA: questions on satellite images (subset `lr`) and on aerial ones (`hr`), as on Zenodo.

Under `root` for `lr`: `LR_split_<split>_questions.json`, `..._answers.json` and `Images_LR/`; for `hr`:
`USGS_split_<split>_questions.json`, `..._answers.json` and `Data/`; images are `.tif` or `.png`.
"""

from collections.abc import Iterator
from pathlib import Path

from finetune.data.images import resolve_image
from finetune.data.reading.faults import Faults
from finetune.data.reading.json import iterate_records
from finetune.data.rows import Row, text_features
from finetune.errors import UserError

SPLITS = ("train", "val", "test", "test_phili")
FEATURES = text_features("question", lists=("answers",))
_LAYOUTS = {"lr": ("LR", "Images_LR"), "hr": ("USGS", "Data")}
_NUMERIC = ("count", "area")
_TYPES = (*_NUMERIC, "presence", "comp", "rural_urban")


def read(
    faults: Faults, root: str, split: str, subset: str | None = None, numbers: bool = True
) -> Iterator[Row]:
    """Join questions and answers by id; groups are the questions' types.

    Args:
        faults: what to do with a question that cannot be used.
        root: folder of the files.
        split: `test_phili`, another city, exists for `hr` only.
        subset: `lr` or `hr`.
        numbers: include the questions for a count or an area, which the paper leaves out. Their answers
            are the ranges used in scoring.
    """
    if not isinstance(numbers, bool):
        raise UserError(f"dataset.options.numbers={numbers}: expected true or false.")
    if subset not in _LAYOUTS:
        raise UserError(f"dataset.options.subset={subset}: expected one of {', '.join(_LAYOUTS)}.")
    start, images = _LAYOUTS[subset]
    folder = Path(root)
    file = folder / f"{start}_split_{split}_questions.json"
    answers_file = folder / f"{start}_split_{split}_answers.json"
    given = _read_answers(faults, answers_file)
    for _, item in iterate_records(faults, file, "questions"):
        with faults.skipping():
            if not item.boolean("active"):
                continue
            kind = item.choice("type", _TYPES)
            if kind in _NUMERIC and not numbers:
                continue
            question_id, answer_id = item.identifier("id"), item.identifiers("answers_ids")[0]
            question_of, answer = given.get(answer_id, (None, ""))
            if question_of != question_id:
                raise UserError(f"{item.where}: its answer {answer_id} is not in {answers_file}.")
            yield {
                "id": question_id,
                "group": kind,
                "image": _find_image(item.identifier("img_id"), folder / images, item.where),
                "question": item.text("question"),
                "answers": [_to_range(answer, kind, subset, f"{answers_file}: answer {answer_id}")],
            }


def _read_answers(faults: Faults, file: Path) -> dict[str, tuple[str, str]]:
    """Return question and text of each answer, by its id."""
    answers: dict[str, tuple[str, str]] = {}
    for _, item in iterate_records(faults, file, "answers"):
        with faults.skipping():
            if item.boolean("active"):
                answer_id = item.identifier("id")
                if answer_id in answers:
                    raise UserError(f"{item.where}: answer {answer_id} is duplicated; ids must be unique.")
                answers[answer_id] = (item.identifier("question_id"), item.identifier("answer"))
    return answers


def _find_image(image_id: str, folder: Path, where: str) -> str:
    names = [f"{image_id}.tif", f"{image_id}.png"]
    return resolve_image(next((n for n in names if (folder / n).is_file()), names[0]), folder, where)


def _to_range(answer: str, kind: str, subset: str, where: str) -> str:
    """Return the range of a number: of `hr`'s areas and `lr`'s counts; `hr`'s counts are small.

    Source: big_vision `datasets/rsvqa_{lr,hr}`, `bin_answer`.
    """
    if (kind, subset) not in {("area", "hr"), ("count", "lr")}:
        return answer
    unit = " m2" if kind == "area" else ""
    digits = answer.removesuffix("m2")
    if not (digits.isascii() and digits.isdigit()):
        raise UserError(f"{where}: expected a whole number as answer to its {kind}, got {answer!r:.60}.")
    number = int(digits)
    if number == 0:
        return f"0{unit}"
    for low, high in ((1, 10), (11, 100), (101, 1000)):
        if number <= high:
            return f"between {low}{unit} and {high}{unit}"
    return f"more than 1000{unit}"
