"""Every format reads a test split by itself: a file, or the folder of an export."""

from pathlib import Path

import pytest

from finetune.config.choices import GROUP_SCHEMAS
from finetune.data.annotations import Coco
from finetune.data.layouts.finders import FINDERS
from finetune.data.options import FileOptions, Jsonl, Mixture, Part, Webdataset
from finetune.data.rows import Splits
from finetune.errors import UserError
from finetune.tasks.text import TextTask
from tests.data.formats.exports import EXPORTS, SCENES

THREE = [name for name, export in EXPORTS.items() if "test" in export.splits]


def read_test(dataset: str, place: str) -> Splits:
    options = GROUP_SCHEMAS["dataset"][dataset](train="x", validation="y", test=place)
    assert options.describe("test") == place
    source = options.for_test()
    splits: Splits = source.load()
    assert source.describe("validation") == place
    return splits


@pytest.mark.parametrize("name", THREE)
def test_a_test_split_is_read_from_its_file_or_from_the_folder_of_the_export(
    name: str, tmp_path: Path
) -> None:
    export = EXPORTS[name]
    export.make(tmp_path)
    for place in (str(tmp_path), FINDERS[export.dataset](tmp_path)["test"]):
        rows = read_test(export.dataset, place).validation
        assert {Path(row["image"]).name for row in rows} == {scene.name for scene in SCENES["test"]}


def test_without_a_test_split_there_is_no_source_for_it() -> None:
    assert Jsonl(train="x", validation="y").for_test() is None


def test_a_mixture_refuses_the_test_split_of_a_part() -> None:
    part = Part(Jsonl(train="x", validation="y", test="z"), TextTask())
    (problem,) = Mixture({"a": part, "b": Part(Jsonl(train="x", validation="y"), TextTask())}).problems(
        "dataset."
    )
    assert problem == "dataset.parts.a.source.test has no effect: a mixture has no test split."


@pytest.mark.parametrize("format", [Jsonl, Webdataset, Coco])
def test_a_validation_file_that_is_read_alone_is_missed_by_its_own_option(
    format: type[FileOptions], tmp_path: Path
) -> None:
    source = format(train="x", validation=str(tmp_path / "moved")).for_validation()
    with pytest.raises(UserError, match=r"moved \(dataset\.validation\)"):
        source.load()
