import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from datasets import Image as Picture
from PIL import Image

from finetune.data.images import encode_png
from finetune.data.published import Hub, HubObjects
from finetune.data.rows import Splits
from finetune.errors import UserError


def make_parquet(folder: Path, **columns: list[Any]) -> Path:
    folder.mkdir(exist_ok=True)
    count = len(next(iter(columns.values())))
    pictures = [Image.new("RGB", (4, 4), (number, 0, 0)) for number in range(count)]
    kind = columns.get("answers", [[{"answer": ""}]])[0]
    answers = List({"answer": Value("string")}) if isinstance(kind, list) else Value("string")
    features = Features(
        {
            "picture": Picture(),
            **{name: Value("string") for name in columns if name != "answers"},
            **({"answers": answers} if "answers" in columns else {}),
        }
    )
    Dataset.from_dict({"picture": pictures, **columns}, features=features).to_parquet(
        str(folder / "train-00000.parquet")
    )
    return folder


def load_hub(**options: Any) -> Splits:
    """Load by the values that a recipe would have."""
    return Hub(**{**options, "objects": HubObjects(**options["objects"])}).load()


def hub(folder: Path, **options: Any) -> dict[str, Any]:
    names: dict[str, str | None] = {
        "image": "picture",
        "question": "asked",
        "answers": "answers",
        "id": None,
        "group": None,
    }
    return {
        "path": str(folder),
        "name": None,
        "revision": None,
        "train": "train[:2]",
        "validation": "train[2:]",
        "columns": {**names, **options},
        "data_files": {},
        "objects": {"boxes": None, "labels": None, "layout": "xywh", "relative": False},
    }


def test_a_copy_in_parquet_is_read_by_the_names_of_its_columns(tmp_path: Path) -> None:
    folder = make_parquet(
        tmp_path / "copy",
        asked=["a?", "b?", "c?"],
        answers=[[{"answer": "x"}, {"answer": "y"}]] * 3,
        kind=["other", "number", "other"],
    )
    train, validation, _ = load_hub(**hub(folder, group="kind"))
    assert (len(train), len(validation)) == (2, 1)
    row = train[1]
    assert (row["id"], row["group"], row["question"], row["answers"]) == ("1", "number", "b?", ["x", "y"])
    assert set(row["image"]) == {"bytes", "path"}


def test_a_single_answer_becomes_a_list_of_one(tmp_path: Path) -> None:
    folder = make_parquet(tmp_path / "copy", asked=["a?", "b?", "c?"], answers=["x", "y", "z"])
    train = load_hub(**hub(folder)).train
    assert train["answers"][:] == [["x"], ["y"]]


def test_a_column_that_is_not_there_lists_those_that_are(tmp_path: Path) -> None:
    folder = make_parquet(tmp_path / "copy", asked=["a?", "b?", "c?"], answers=["x", "y", "z"])
    with pytest.raises(UserError, match=r"no column `question` .*it has: picture, asked, answers"):
        load_hub(**hub(folder, question="question"))


def test_a_split_that_is_not_there_lists_those_that_are(tmp_path: Path) -> None:
    folder = make_parquet(tmp_path / "copy", asked=["a?", "b?", "c?"], answers=["x", "y", "z"])
    with pytest.raises(UserError, match=r"split `val`.*train"):
        load_hub(**{**hub(folder), "validation": "val"})


PNG = encode_png(Image.new("RGB", (20, 10)))
PICTURE = {"bytes": PNG, "path": None}
BOXES = {"boxes": "objects.bbox", "labels": "objects.category", "layout": "xywh", "relative": False}


def load(folder: Path, rows: list[dict[str, Any]], schema: Any = None, **options: Any) -> Dataset:
    """Write rows as parquet, and read them as the split `train`; columns keep their names."""
    folder.mkdir(exist_ok=True)
    names = [name for name in rows[0] if name not in {"objects", "image", "images"}]
    table = (
        pa.Table.from_pylist(rows)
        if schema is None
        else Dataset.from_list(rows, features=schema).data.table
    )
    pq.write_table(table, folder / "train-00000.parquet")
    asked = {"train": None, "validation": "train", "columns": dict.fromkeys(names)} | options
    asked["columns"] = {name: name for name in asked["columns"]}
    return load_hub(**{**hub(folder), **asked}).validation


def bad_row(row: dict[str, Any], **values: Any) -> list[dict[str, Any]]:
    return [row, {**row, **values}]


TEXTS = {
    "image": PICTURE,
    "id": "a",
    "question": "what?",
    "answers": ["x", "y"],
    "answer": "1",
    "choices": ["b", "c"],
}
OBJECTS = {"image": PICTURE, "objects": {"bbox": [[2.0, 1.0, 6.0, 4.0]], "category": ["cup"]}}


@pytest.mark.parametrize(
    ("values", "column"),
    [
        pytest.param({"image": None}, "image", id="no image"),
        pytest.param({"image": {"bytes": None, "path": None}}, "image", id="an image of nothing"),
        pytest.param(
            {"image": {"bytes": None, "path": "/etc/passwd"}}, "image", id="a file of this machine"
        ),
        pytest.param(
            {"image": {"bytes": None, "path": "../x.png"}}, "image", id="a file beside the folder"
        ),
        pytest.param(
            {"image": {"bytes": None, "path": "http://127.0.0.1:9/x.png"}}, "image", id="an address"
        ),
        pytest.param({"id": None}, "id", id="no id"),
        pytest.param({"id": " "}, "id", id="a blank id"),
        pytest.param({"question": None}, "question", id="no question"),
        pytest.param({"question": " "}, "question", id="a blank question"),
        pytest.param({"answers": [""]}, "answers", id="an answer without text"),
        pytest.param({"answers": ["x", None]}, "answers", id="an answer that is null"),
        pytest.param({"choices": ["b", ""]}, "choices", id="a choice without text"),
        pytest.param({"answer": "2"}, "answer", id="a choice too many"),
        pytest.param({"answer": "-1"}, "answer", id="a negative choice"),
        pytest.param({"answer": "B or C"}, "answer", id="two choices"),
        pytest.param({"answer": "²"}, "answer", id="a small digit"),
        pytest.param({"answer": "9" * 30}, "answer", id="a huge number"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_row_and_column(
    tmp_path: Path, values: dict[str, Any], column: str
) -> None:
    (tmp_path / "x.png").write_bytes(PNG)
    with pytest.raises(UserError) as error:
        load(tmp_path / "copy", bad_row(TEXTS, **{"id": "b", **values}))
    assert re.search(rf"split `train`, row 1: (column )?`{column}`", str(error.value)), error.value


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        pytest.param(None, "expected a list", id="null"),
        pytest.param({"bbox": None, "category": ["cup"]}, "`objects.bbox`: expected a list", id="no boxes"),
        pytest.param(
            {"bbox": [[2.0, 1.0, 6.0, 4.0]], "category": []}, "0 labels for 1 boxes", id="lengths"
        ),
        pytest.param({"bbox": [[2.0, 1.0]], "category": ["cup"]}, "box of four numbers", id="two numbers"),
        pytest.param({"bbox": [None], "category": ["cup"]}, "box of four numbers", id="a box that is null"),
        pytest.param({"bbox": [[2.0, 1.0, 6.0, 4.0]], "category": [None]}, "name or number", id="no label"),
        pytest.param(
            {"bbox": [[2.0, 1.0, 6.0, 4.0]], "category": [" "]}, "name or number", id="blank label"
        ),
    ],
)
def test_an_object_that_cannot_be_used_is_named_with_its_row(
    tmp_path: Path, objects: Any, message: str
) -> None:
    with pytest.raises(UserError, match=f"row 1: .*{message}"):
        load(tmp_path / "copy", bad_row(OBJECTS, objects=objects), objects=BOXES)


@pytest.mark.parametrize("number", [-1, 2, None])
def test_the_number_of_a_class_must_be_one_that_has_a_name(tmp_path: Path, number: int | None) -> None:
    def write(category: int | None) -> Dataset:
        objects = {"bbox": [[2.0, 1.0, 6.0, 4.0]], "category": [category]}
        kind = {"bbox": List(List(Value("float32"))), "category": List(ClassLabel(names=["cup", "dog"]))}
        schema = Features({"image": Picture(), "objects": kind})
        table = Dataset.from_list([{"image": PICTURE, "objects": {**objects, "category": [1]}}], schema)
        raw = pa.Table.from_pylist([{"image": PICTURE, "objects": objects}], table.data.schema)
        (tmp_path / "copy").mkdir(exist_ok=True)
        pq.write_table(
            raw.replace_schema_metadata(table.data.schema.metadata), tmp_path / "copy/train.parquet"
        )
        return load_hub(
            **{
                **hub(tmp_path / "copy"),
                "train": None,
                "validation": "train",
                "columns": {},
                "objects": BOXES,
            }
        ).validation

    with pytest.raises(UserError, match="(number of a class, from 0 to 1|Class label)"):
        write(number)


def test_boxes_get_the_names_of_their_classes(tmp_path: Path) -> None:
    rows = load(tmp_path / "copy", [OBJECTS], objects=BOXES)
    assert (rows[0]["width"], rows[0]["height"], rows[0]["objects"][0]["label"]) == (20, 10, "cup")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        pytest.param(
            "image", "http://127.0.0.1:9/x.png", "column `image`: expected images", id="addresses"
        ),
        pytest.param("image", 7, "column `image`: expected images", id="numbers for images"),
        pytest.param("images", ["x.png"], "column `images`: expected lists of images", id="lists of names"),
        pytest.param("question", {"text": "what?"}, "column `question`: expected texts", id="structs"),
        pytest.param("question", b"what?", "column `question`: expected texts", id="bytes"),
        pytest.param("question", 7, "column `question`: expected texts", id="numbers"),
        pytest.param("question", True, "column `question`: expected texts", id="true"),
        pytest.param(
            "answers", [["x"]], "row 0: column `answers`: expected texts, got a list", id="nested"
        ),
        pytest.param("answers", True, "row 0: column `answers`: expected texts, got true", id="yes or no"),
        pytest.param(
            "answers", [{"text": "x"}], "row 0: column `answers`: expected texts, got null", id="keys"
        ),
        pytest.param(
            "id", [7], "row 0: `id`: expected a whole number or a text, got a list", id="list of ids"
        ),
        pytest.param("answer", [1], "row 0: column `answer`: expected the index", id="list of choices"),
    ],
)
def test_a_column_of_another_kind_is_named(tmp_path: Path, column: str, value: Any, message: str) -> None:
    row = {**TEXTS, column: value}
    if column == "images":
        del row["image"]
    with pytest.raises(UserError, match=message):
        load(tmp_path / "copy", [row])


def test_texts_come_in_several_forms(tmp_path: Path) -> None:
    forms: list[tuple[Any, list[str]]] = [
        ("x", ["x"]), (7, ["7"]), (["x", "", "y"], ["x", "y"]), ("['x', 'y']", ["x", "y"]),
        ("[1, 2]", ["[1, 2]"]), ("[cut", ["[cut"]), ([{"answer": "x"}], ["x"]), (None, []), ([], []),
    ]  # fmt: skip
    for number, (value, expected) in enumerate(forms):
        rows = load(tmp_path / f"copy{number}", [{**TEXTS, "answers": value}])
        assert rows["answers"][:] == [expected]


def test_an_image_may_be_a_file_of_the_data_set(tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    (folder / "img").mkdir(parents=True)
    (folder / "img/x.png").write_bytes(PNG)
    for path in ("img/x.png", str(folder / "img/x.png")):
        rows = load(folder, [{**TEXTS, "image": {"bytes": None, "path": path}}])
        assert rows[0]["image"] == {"bytes": None, "path": str(folder / "img/x.png")}


def test_an_id_that_stands_twice_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="column `id`: id `a` is duplicated"):
        load(tmp_path / "copy", [TEXTS, TEXTS])


def rows_with_pictures(count: int) -> Dataset:
    pictures = [Image.new("RGB", (4, 4), (number, 0, 0)) for number in range(count)]
    features = Features({"image": Picture(), "caption": Value("string")})
    return Dataset.from_dict(
        {"image": pictures, "caption": [f"c{number}" for number in range(count)]}, features=features
    )


@pytest.mark.parametrize("several", [True, False])
def test_what_save_to_disk_wrote_is_read(tmp_path: Path, several: bool) -> None:
    rows = rows_with_pictures(4)
    saved = DatasetDict({"train": rows, "test": rows.select([3])}) if several else rows
    saved.save_to_disk(str(tmp_path / "saved"))
    validation: dict[str, Any] = {"validation": "test"} if several else {"validation_fraction": 0.25}
    splits = Hub(path=str(tmp_path / "saved"), columns={"captions": "caption"}, **validation).load()
    assert (len(splits.train), len(splits.validation)) == ((4, 1) if several else (3, 1))
    assert splits.validation["captions"][:] == [["c3"]] or not several
    with pytest.raises(UserError, match="has no split `valid`; it has: train"):
        Hub(path=str(tmp_path / "saved"), columns={"captions": "caption"}, validation="valid").load()


def test_a_share_of_the_only_split_is_held_out(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    rows_with_pictures(5).to_parquet(str(tmp_path / "data/train-00000-of-00001.parquet"))
    splits = Hub(path=str(tmp_path), columns={"captions": "caption"}, validation_fraction=0.4).load()
    captions = [text for split in splits[:2] for texts in split["captions"] for text in texts]
    assert sorted(captions) == ["c0", "c1", "c2", "c3", "c4"]
    assert len(splits.validation) == 2


def test_a_share_and_another_split_exclude_each_other() -> None:
    hub = Hub(path="x", validation="test", validation_fraction=0.1)
    assert [text.partition(" are ")[2] for text in hub.problems("dataset.")] == [
        "both given: add dataset.validation_fraction=null."
    ]
    assert not list(Hub(path="x", validation_fraction=0.1).problems("dataset."))


TALK = [
    {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "A cup."}]},
]
CAULDRON = [
    {"user": "What?", "assistant": "A cup.", "source": "vqav2"},
    {"user": "Red?", "assistant": "Yes.", "source": "vqav2"},
]


@pytest.mark.parametrize(
    ("column", "turns", "pairs"),
    [
        pytest.param("texts", CAULDRON, [("What?", ["A cup."]), ("Red?", ["Yes."])], id="The Cauldron"),
        pytest.param("messages", TALK, [("What?", ["A cup."])], id="chat messages"),
    ],
)
def test_each_answer_of_a_conversation_is_a_row(
    tmp_path: Path, column: str, turns: list[Any], pairs: list[Any]
) -> None:
    picture = {"bytes": encode_png(Image.new("RGB", (4, 4))), "path": None}
    rows = Dataset.from_dict({"images": [[picture]] * 2, column: [turns] * 2})
    (tmp_path / "data").mkdir()
    rows.cast_column("images", List(Picture())).to_parquet(
        str(tmp_path / "data/train-00000-of-00001.parquet")
    )
    splits = Hub(path=str(tmp_path), validation="train").load()
    assert [(row["prefix"], row["suffixes"]) for row in splits.train] == pairs * 2
    assert splits.train["id"][:][0] == "0/1"
    assert splits.train[0]["images"] == [picture]


def test_folders_that_are_no_parquet_files_are_refused_in_one_line(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.mkdir()
    (script / "script.py").write_text("raise SystemExit('was run')")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "train.parquet").write_bytes(b"PAR1 and no more")
    differing = tmp_path / "differing"
    differing.mkdir()
    for number, column in enumerate("ab"):
        pq.write_table(pa.table({column: [1]}), differing / f"train-{number}.parquet")
    empty = tmp_path / "empty"
    empty.mkdir()
    cases: dict[Path, str] = {
        script: "loading script, which is never run",
        broken: "its files cannot be read",
        differing: "its files cannot be read",
        tmp_path / "nowhere": "Dataset `.*nowhere`.*Couldn't find any data",
        broken / "train.parquet": "train.parquet",
        Path("a/b/c"): "Dataset `a/b/c`.*Couldn't find",
        Path("a b"): "ataset `a b`",
        empty: "Dataset `.*empty`",
    }
    for folder, message in cases.items():
        with pytest.raises(UserError, match=message) as error:
            load_hub(**hub(folder))
        assert "\n" not in str(error.value)
