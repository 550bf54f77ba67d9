from collections.abc import Mapping

import pytest

from finetune.data.recognition.columns import EXTRACTION_PROMPT, recognize_columns
from finetune.data.recognition.kinds import Kind
from finetune.errors import UserError


@pytest.mark.parametrize(
    ("row", "kind", "columns"),
    [
        pytest.param(
            {"Image Path": "a.jpg", "Question": "what?", "Answer": "a cup"},
            Kind.question,
            {"image": "Image Path", "question": "Question", "answers": "Answer"},
            id="headers of a spreadsheet",
        ),
        pytest.param(
            {"image": "a.jpg", "query": "what?", "label": ["a", "b"]},
            Kind.question,
            {"question": "query", "answers": "label"},
            id="a label with a question",
        ),
        pytest.param({"image": "a.jpg", "label": "cup"}, Kind.classes, {"answers": "label"}, id="class"),
        pytest.param(
            {"file_name": "a.jpg", "text": "a cup"},
            Kind.caption,
            {"image": "file_name", "captions": "text"},
            id="caption",
        ),
        pytest.param(
            {"image": "a.jpg", "text": '{"total": 1}'}, Kind.extraction, {"answers": "text"}, id="JSON"
        ),
        pytest.param({"image": "a.jpg", "prefix": "p", "suffix": "s"}, Kind.pairs, {}, id="pairs"),
        pytest.param(
            {"image": "a.jpg", "Prefix": "p", "Suffix": '{"a": 1}'},
            Kind.extraction,
            {"prefix": "Prefix", "suffixes": "Suffix"},
            id="pairs of JSON",
        ),
    ],
)
def test_columns_say_what_rows_are_for(
    row: Mapping[str, object], kind: Kind, columns: Mapping[str, str]
) -> None:
    purpose = recognize_columns([*row], [row], "data.csv", {})
    assert purpose.kind == kind
    assert purpose.options == {f"columns.{ours}": theirs for ours, theirs in columns.items()}
    if kind == Kind.extraction and "answers" in columns:
        assert purpose.task == {"task.prompt": EXTRACTION_PROMPT, "task.answers": "answers"}


@pytest.mark.parametrize("names", [["image", "foo"], ["image", "question"], ["image"]])
def test_columns_that_do_not_say_it_are_asked_for(names: list[str]) -> None:
    with pytest.raises(UserError, match=r"data.csv: cannot tell .* dataset.columns.answers="):
        recognize_columns(names, [], "data.csv", {})


def test_a_column_that_was_named_is_not_sought() -> None:
    names, given = ["image", "foo", "question", "answer"], {"answers": "foo"}
    assert recognize_columns(names, [], "x", given).options["columns.answers"] == "foo"
