"""RSVQA: questions on satellite pictures (subset `lr`) and on aerial ones (`hr`), as on Zenodo.

Under `root` for `lr`: `LR_split_<split>_questions.json`, `..._answers.json` and `Images_LR/`; for `hr`:
`USGS_split_<split>_questions.json`, `..._answers.json` and `Data/`; pictures are `.tif` or `.png`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.data.faults import Faults
from finetune.data.images import resolve_image
from finetune.data.json_files import iterate_json_array, pick
from finetune.data.rows import text_features
from finetune.errors import UserError

SPLITS = ("train", "val", "test", "test_phili")
FEATURES = text_features("question", lists=("answers",))
_LAYOUTS = {"lr": ("LR", "Images_LR"), "hr": ("USGS", "Data")}
_NUMERIC = ("count", "area")


def read(
    faults: Faults, root: str, split: str, subset: str | None = None, numbers: bool = True
) -> Iterator[dict[str, Any]]:
    """Join questions and answers by id; groups are the questions' types.

    Args:
        faults: what to do with a question that cannot be used.
        root: folder of the files.
        split: `test_phili`, another city, is there for `hr` alone.
        subset: `lr` or `hr`.
        numbers: with the questions for a count or an area; the paper leaves them out. Their answers are
            the ranges that they are scored by.

    Raises:
        UserError: names the file, the question and the remedy.
    """
    if subset not in _LAYOUTS:
        raise UserError(f"dataset.options.subset={subset}: expected one of {', '.join(_LAYOUTS)}.")
    start, pictures = _LAYOUTS[subset]
    folder = Path(root)
    file = folder / f"{start}_split_{split}_questions.json"
    given = _read_answers(faults, folder / f"{start}_split_{split}_answers.json")
    for index, item in enumerate(iterate_json_array(file, "questions")):
        where = f"{file}: questions[{index}]"
        with faults.skipping():
            if not pick(item, where, "active")[0]:
                continue
            keys = ("id", "img_id", "type", "question", "answers_ids")
            question_id, image_id, kind, question, answer_ids = pick(item, where, *keys)
            if kind in _NUMERIC and not numbers:
                continue
            question_of, answer = given.get(answer_ids[0], (None, ""))
            if question_of != question_id:
                raise UserError(f"{where}: its answer {answer_ids[0]} is not in the file of the answers.")
            yield {
                "id": str(question_id),
                "group": kind,
                "image": _find_image(image_id, folder / pictures, where),
                "question": question,
                "answers": [_to_range(answer, kind, subset)],
            }


def _read_answers(faults: Faults, file: Path) -> dict[int, tuple[int, str]]:
    """Return question and text of each answer, by its id."""
    found = {}
    for index, item in enumerate(iterate_json_array(file, "answers")):
        where = f"{file}: answers[{index}]"
        with faults.skipping():
            if pick(item, where, "active")[0]:
                answer_id, question_id, answer = pick(item, where, "id", "question_id", "answer")
                found[answer_id] = (question_id, str(answer))
    return found


def _find_image(image_id: int, folder: Path, where: str) -> str:
    names = [f"{image_id}.tif", f"{image_id}.png"]
    return resolve_image(next((n for n in names if (folder / n).is_file()), names[0]), folder, where)


def _to_range(answer: str, kind: str, subset: str) -> str:
    """Return the range of a number: of `hr`'s areas and `lr`'s counts; `hr`'s counts are small.

    Source: big_vision `datasets/rsvqa_{lr,hr}`, `bin_answer`.
    """
    if (kind, subset) not in {("area", "hr"), ("count", "lr")}:
        return answer
    unit = " m2" if kind == "area" else ""
    number = int(answer.removesuffix("m2"))
    if number == 0:
        return f"0{unit}"
    for low, high in ((1, 10), (11, 100), (101, 1000)):
        if number <= high:
            return f"between {low}{unit} and {high}{unit}"
    return f"more than 1000{unit}"
