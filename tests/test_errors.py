import io
import json
import logging
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.errors import describe, guard_terminal, print_json, printable
from finetune.run.files import write_json, write_jsonl
from finetune.run.log import logging_to, show_on_terminal, unchanged_logging

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
HOSTILE = "a\x1b[31m\x07\x9b2J\r\x7f\u202etxt\u2066\u200b\ud800-\udcffz"
SHOWN = r"a\x1b[31m\x07\x9b2J\x0d\x7f\u202etxt\u2066\u200b\ud800-\udcffz"


def test_what_a_terminal_obeys_is_shown_as_escapes() -> None:
    assert printable(HOSTILE) == SHOWN
    assert printable("one\ntwo\tthree") == "one\ntwo\tthree"


@pytest.mark.parametrize("text", ["größe", "日本語", "\U0001f469\u200d\U0001f52c", "می\u200cخواهم", "שלום"])  # noqa: RUF001
def test_scripts_and_emoji_stay_as_they_are(text: str) -> None:
    assert printable(text) == text


@given(st.text())
def test_no_control_character_is_left(text: str) -> None:
    assert not [
        character for character in printable(text) if character not in "\n\t" and ord(character) < 32
    ]
    printable(text).encode("utf-8")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_printed_json_is_read_back_unchanged_in_any_encoding(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    print_json({"größe": HOSTILE})
    line = raw.getvalue().decode(encoding)
    assert json.loads(line) == {"größe": HOSTILE}
    assert printable(line) == line
    assert line.count("\n") == 1
    assert ("größe" in line) == (encoding == "utf-8")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "nothing"),
        ([1, "x"], "[1, 'x']"),
        ({"x": None}, "{'x': None}"),
        ("x" * 200, None),
        ([[1] * 100] * 100, None),
        (10**4000, None),
    ],
)
def test_values_of_any_size_are_described_shortly(value: Any, text: str | None) -> None:
    assert text is None or describe(value) == text
    assert len(describe(value)) <= 80


def test_what_is_nested_deeper_than_the_stack_is_described() -> None:
    value: Any = 1
    for _ in range(10_000):
        value = [value]
    assert describe(value) == "[[[[[...]]]]]"


def test_an_error_shows_the_escapes_in_a_name(command: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = command("score", "metric=exact_match", "predictions=a\x1b[31m\u202eb.jsonl")
    assert (code, out) == (2, "")
    assert r"a\x1b[31m\u202eb.jsonl" in err
    assert "\x1b" not in err


def test_log_lines_and_their_file_are_printable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with unchanged_logging():
        show_on_terminal()
        with logging_to(tmp_path / "train.log"):
            logging.getLogger("finetune").warning("warning: %s", HOSTILE)
    logged = (tmp_path / "train.log").read_text(encoding="utf-8")
    assert re.sub(f"^{TIME}  ", "", logged) == f"warning: {SHOWN}\n"
    assert capsys.readouterr().out == f"warning: {SHOWN}\n"


def test_every_line_of_the_log_file_has_its_time(tmp_path: Path) -> None:
    with unchanged_logging(), logging_to(tmp_path / "train.log"):
        logging.getLogger("finetune").info("a table\n  of two columns\n")
    lines = (tmp_path / "train.log").read_text(encoding="utf-8").splitlines()
    assert [re.sub(f"^{TIME}", "", line) for line in lines] == ["  a table", "    of two columns", ""]


def test_warnings_tracebacks_and_other_encodings_are_guarded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    raw = io.BytesIO()
    with monkeypatch.context() as patch:
        stream = io.TextIOWrapper(raw, encoding="ascii")
        patch.setattr(sys, "stdout", stream)
        guard_terminal()
        print("größe", flush=True)
    assert stream.errors == "backslashreplace"
    assert raw.getvalue() == b"gr\\xf6\\xdfe\n"
    assert SHOWN in warnings.formatwarning(UserWarning(HOSTILE), UserWarning, "file.py", 1)
    sys.excepthook(ValueError, ValueError(HOSTILE), None)
    assert capsys.readouterr().err == f"ValueError: {SHOWN}\n"


def test_files_keep_the_data_and_stay_utf8(tmp_path: Path) -> None:
    write_json(tmp_path / "one.json", {"text": HOSTILE})
    write_jsonl(tmp_path / "rows.jsonl", [{"text": HOSTILE}])
    for name in ("one.json", "rows.jsonl"):
        assert json.loads((tmp_path / name).read_bytes().decode("utf-8")) == {"text": HOSTILE}
