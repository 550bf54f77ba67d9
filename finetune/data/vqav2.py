"""VQAv2: the official questions, annotations and photos, or a copy in parquet."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset

from finetune.data.hub import load_hub
from finetune.data.images import resolve_image
from finetune.data.json_array import iterate_json_array
from finetune.data.rows import Splits, build_rows, text_features
from finetune.errors import UserError

_SUBSETS = {"train": "train2014", "validation": "val2014"}


def load_vqav2(
    root: str | None,
    train: Mapping[str, Any],
    validation: Mapping[str, Any],
    hub: Mapping[str, Any],
) -> Splits:
    """Load both splits from wherever they are given; local files win over the Hub.

    Args:
        root: folder with the release's own file names.
        train: `questions`, `annotations` and `image_dir` of the training split.
        validation: the same of the validation split.
        hub: arguments of `load_hub`.

    Raises:
        UserError: names the file, the question and the remedy.
    """
    if root is not None:
        return Splits(*(_load_split(**_release_files(Path(root), s)) for s in _SUBSETS.values()))
    if train["questions"] is not None:
        return Splits(_load_split(**train), _load_split(**validation))
    return load_hub(**hub)


def _release_files(root: Path, subset: str) -> dict[str, str]:
    return {
        "questions": str(root / f"v2_OpenEnded_mscoco_{subset}_questions.json"),
        "annotations": str(root / f"v2_mscoco_{subset}_annotations.json"),
        "image_dir": str(root / subset),
    }


def _load_split(questions: str, annotations: str, image_dir: str) -> Dataset:
    for file in (questions, annotations):
        if not Path(file).is_file():
            raise UserError(f"No file {file}.")
    if not Path(image_dir).is_dir():
        raise UserError(f"No folder {image_dir}.")
    rows = build_rows(
        _generate,
        text_features("question", "answers"),
        questions=questions,
        annotations=annotations,
        image_dir=image_dir,
    )
    if len(rows) == 0:
        raise UserError(f"{annotations}: no annotations.")
    return rows


def _generate(questions: str, annotations: str, image_dir: str, stamp: Any) -> Iterator[dict[str, Any]]:
    """Join on `question_id`, in the order of the annotations."""
    asked = {item["question_id"]: item for item in iterate_json_array(Path(questions), "questions")}
    subset = _find_subset(questions)
    for item in iterate_json_array(Path(annotations), "annotations"):
        question_id = item["question_id"]
        where = f"{annotations}: question {question_id}"
        if question_id not in asked:
            raise UserError(f"{where} does not stand in {questions}. Do the two files belong together?")
        name = f"COCO_{subset}_{asked[question_id]['image_id']:012d}.jpg"
        yield {
            "id": str(question_id),
            "group": item.get("answer_type"),
            "image": resolve_image(name, Path(image_dir), where),
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
