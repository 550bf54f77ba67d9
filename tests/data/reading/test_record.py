from collections.abc import Callable
from typing import Any

import pytest

from finetune.data.reading.record import Record
from finetune.errors import UserError

KINDS: dict[str, tuple[Callable[[Record], Any], list[tuple[Any, Any]]]] = {
    "text": (lambda record: record.text("k"), [("x", "x"), (" é ", " é ")]),
    "texts": (lambda record: record.texts("k"), [(["x"], ["x"])]),
    "identifier": (lambda record: record.identifier("k"), [("x", "x"), (7, "7"), (10**30, str(10**30))]),
    "identifiers": (lambda record: record.identifiers("k"), [(["x"], ["x"]), ([7, "x"], ["7", "x"])]),
    "integer": (lambda record: record.integer("k"), [(7, 7), (10**30, 10**30)]),
    "number": (lambda record: record.number("k"), [(7, 7.0), (0.5, 0.5), (10**30, 1e30)]),
    "numbers": (lambda record: record.numbers("k"), [([7, 0.5], [7.0, 0.5]), ([7, 8], [7.0, 8.0])]),
    "boolean": (lambda record: record.boolean("k"), [(True, True), (False, False)]),
    "record": (lambda record: record.record("k"), [({"a": 1}, {"a": 1}), ({}, {})]),
    "records": (lambda record: record.records("k"), [([{"a": 1}], [{"a": 1}])]),
    "array": (lambda record: record.array("k"), [(["x"], ["x"]), ([], []), ([[[]]], [[[]]])]),
}
VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        0.5,
        float("nan"),
        float("inf"),
        10**400,
        7,
        10**30,
        "",
        " \n",
        "\ud800",
        "x",
        " é ",
    ),
    *([], {}, ["x"], [7, "x"], [7, 0.5], [7, 8], [None], [""], [{"a": 1}], [[[]]], {"a": 1}),
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_of_another_kind_is_named_with_its_place_and_key(kind: str) -> None:
    read, legal = KINDS[kind]
    for value, expected in legal:
        assert read(Record({"k": value}, "x.json item 3")) == expected
    lists = [["x"], [7, "x"], [7, 0.5], [7, 8], [None], [""], [{"a": 1}], [[[]]]]
    also: dict[str, list[Any]] = {
        "array": lists,
        "identifier": [10**400, " é "],
        "integer": [10**400],
        "identifiers": [[7, 8]],
    }
    allowed = [value for value, _ in legal] + also.get(kind, [])
    for value in VALUES:
        if not any(value is one or (value == one and type(value) is type(one)) for one in allowed):
            with pytest.raises(UserError, match=r"^x.json item 3: `k`.*expected .*, got "):
                read(Record({"k": value}, "x.json item 3"))
    with pytest.raises(UserError, match="no `k`; the keys are: none"):
        read(Record({}, "x.json item 3"))


def test_a_whole_number_may_be_limited_and_a_text_may_be_missing() -> None:
    record = Record({"index": 4, "null": None, "blank": " ", "text": "x", "number": 7}, "here")
    assert record.integer("index", range(5)) == 4
    with pytest.raises(UserError, match="here: `index`: expected a whole number from 0 to 3, got 4"):
        record.integer("index", range(4))
    names = ("nothing", "null", "blank", "text")
    assert [record.optional_text(name) for name in names] == [None, None, None, "x"]
    with pytest.raises(UserError, match="here: `number`: expected a text, got 7"):
        record.optional_text("number")
