"""VQAv2: questions and annotations in two files, ten answers each, photos of COCO 2014."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finetune.data.faults import Faults
from finetune.data.hub import load_hub
from finetune.data.images import resolve_image
from finetune.data.json_files import iterate_json_array
from finetune.data.release import load_release
from finetune.data.rows import Splits, build_rows, text_features
from finetune.errors import UserError

SPLITS = ("train", "val")
FEATURES = text_features("question", lists=("answers",))


def load_vqav2(
    root: str | None,
    train: Mapping[str, Any] | None,
    validation: Mapping[str, Any],
    on_error: str,
    hub: Mapping[str, Any],
) -> Splits:
    """Load both splits from wherever they are given; local files win over the Hub.

    Args:
        root: folder with the release's own file names.
        train: `questions`, `annotations` and `image_dir` of the training split; null: none.
        validation: the same of the validation split.
        on_error: `error` or `skip`.
        hub: arguments of `load_hub`.

    Raises:
        UserError: names the file, the question and the remedy.
    """
    if root is not None:
        split = None if train is None else "train"
        return load_release("vqav2", root, split, "val", {}, on_error, hub)
    if validation["questions"] is None:
        return load_hub(**hub)
    second = build_rows(read_questions, FEATURES, on_error, **validation)
    if train is None:
        return Splits(second.rows.select([]), second.rows, tuple(second.skipped))
    first = build_rows(read_questions, FEATURES, on_error, **train)
    return Splits(first.rows, second.rows, (*first.skipped, *second.skipped))


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
        if not Path(file).is_file():
            raise UserError(f"No file {file}.")
    if not Path(image_dir).is_dir():
        raise UserError(f"No folder {image_dir}.")
    asked = {item["question_id"]: item for item in iterate_json_array(Path(questions), "questions")}
    subset = subset or _find_subset(questions)
    empty = True
    for item in iterate_json_array(Path(annotations), "annotations"):
        empty = False
        with faults.skipping():
            row = _join(item, asked, subset, Path(image_dir), annotations, questions)
            yield {**row, "group": item.get(group)}
    if empty:
        raise UserError(f"{annotations}: no annotations.")


def _join(
    item: dict[str, Any],
    asked: dict[int, dict[str, Any]],
    subset: str,
    folder: Path,
    annotations: str,
    questions: str,
) -> dict[str, Any]:
    question_id = item["question_id"]
    where = f"{annotations}: question {question_id}"
    if question_id not in asked:
        raise UserError(f"{where} does not stand in {questions}. Do the two files belong together?")
    if len(item["answers"]) != 10:
        raise UserError(f"{where} has {len(item['answers'])} answers, not the ten that it is scored by.")
    name = f"COCO_{subset}_{asked[question_id]['image_id']:012d}.jpg"
    return {
        "id": str(question_id),
        "image": resolve_image(name, folder, where),
        "question": asked[question_id]["question"],
        "answers": [answer["answer"] for answer in item["answers"]],
    }


def _find_subset(questions: str) -> str:
    """Return `train2014` or `val2014`: the file says so, near its beginning or its end."""
    text = Path(questions).read_text(encoding="utf-8")
    for subset in ("train2014", "val2014"):
        if f'"data_subtype": "{subset}"' in text or f'"data_subtype":"{subset}"' in text:
            return subset
    raise UserError(f'{questions}: no `data_subtype` of "train2014" or "val2014".')
