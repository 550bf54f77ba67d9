"""Rows of text files and of parquet as they are: no type is guessed."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from finetune.data.reading.faults import Faults
from finetune.data.reading.json import check_file, iterate_records
from finetune.data.reading.record import Record
from finetune.errors import UserError
from finetune.strict_json import JsonError, parse_json

DELIMITERS = {".csv": ",;\t|", ".tsv": "\t,;|"}
"""Ending -> what may be between the columns, the likeliest first."""
JSON = (".json", ".jsonl", ".ndjson")
ENDINGS = (*DELIMITERS, *JSON, ".parquet")
"""File name endings that `read_records` reads."""

_NOT_UTF8 = re.compile("[\udc80-\udcff]")


def read_records(faults: Faults, file: str) -> Iterator[tuple[int, Record]]:
    """Yield numbers, from 1, and rows of a CSV, TSV, JSON or parquet file.

    Values of CSV and TSV are the text between the delimiters: `007`, `NA` and an empty one are unchanged.

    Args:
        faults: what to do with a line that cannot be read.
        file: its ending determines the format.

    Raises:
        UserError: names the file and the line.
    """
    ending = Path(file).suffix.lower()
    if ending in DELIMITERS:
        return _read_delimited(faults, file)
    if ending in JSON:
        return read_json_rows(faults, file)
    if ending == ".parquet":
        return _read_parquet(file)
    raise UserError(f"{file}: expected a file that ends in {', '.join(ENDINGS)}.")


def list_columns(file: str) -> list[str]:
    """Return the names of a file's columns; of JSON, the keys of the first object."""
    if Path(file).suffix.lower() == ".parquet":
        return list(_open_parquet(file).schema_arrow.names)
    if Path(file).suffix.lower() in DELIMITERS:
        return _read_names(_parse_delimited(file), file)
    return next((list(row) for _, row in read_records(Faults(skip=True), file)), [])


def holds_bytes(file: str, column: str) -> bool:
    """Return whether a column is in parquet and has bytes, or structs of bytes and path."""
    if Path(file).suffix.lower() != ".parquet" or column not in list_columns(file):
        return False
    kind = _open_parquet(file).schema_arrow.field(column).type
    return pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def iterate_lines(file: str) -> Iterator[str]:
    """Yield the lines of a text with their line ends, without a byte order mark.

    Raises:
        UserError: one is not UTF-8.
    """
    for number, line in enumerate(_iterate_raw(file), 1):
        yield check_utf8(line, f"{file} line {number}")


def _iterate_raw(file: str) -> Iterator[str]:
    """Yield lines in which each byte that is not UTF-8 is half of a surrogate pair."""
    check_file(Path(file))
    with Path(file).open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        yield from lines


def check_utf8(text: str, where: str) -> str:
    """Return a text of `_iterate_raw`.

    Raises:
        UserError: it is not UTF-8.
    """
    if not text.isascii() and (match := _NOT_UTF8.search(text)):
        byte = ord(match[0]) - 0xDC00
        wide = ", as UTF-16 has it" if text[:1] in {"\udcff"} else ""
        raise UserError(
            f"{where}: not UTF-8 (byte 0x{byte:02x} at position {match.start()}{wide}). "
            "Save the file as UTF-8."
        )
    return text


def read_json_rows(faults: Faults, file: str, having: str = "") -> Iterator[tuple[int, Record]]:
    """Yield numbers, from 1, and objects of JSON Lines or of a JSON list.

    Args:
        faults: what to do with one that is not whole.
        file: its path.
        having: lines without this text are left out, unread.
    """
    start = next((line.lstrip()[:1] for line in iterate_lines(file) if line.strip()), "")
    return iterate_records(faults, Path(file)) if start == "[" else read_json_lines(faults, file, having)


def read_json_lines(faults: Faults, file: str, having: str = "") -> Iterator[tuple[int, Record]]:
    """Yield number and object of every line that is not blank; one that is not whole is a fault.

    Args:
        faults: what to do with it.
        file: its path.
        having: lines without this text are left out, unread.
    """
    for number, line in enumerate(_iterate_raw(file), 1):
        with faults.skipping():
            if having in line and line.strip():
                where = f"{file} line {number}"
                yield number, parse_object(check_utf8(line, where), where)


def parse_object(text: str | bytes, where: str) -> Record:
    """Read one JSON object.

    Raises:
        UserError: it is not whole, not an object, nested too deeply, or has a key twice.
    """
    try:
        return Record(parse_json(text), where)
    except JsonError as error:
        raise UserError(f"{where}: {error}") from error
    except ValueError as error:
        problem = getattr(error, "msg", error)
        raise UserError(
            f"{where}: not a whole JSON object ({problem}). The file may be half-written."
        ) from error


def _read_delimited(faults: Faults, file: str) -> Iterator[tuple[int, Record]]:
    lines = _parse_delimited(file)
    names = _read_names(lines, file)
    for number, (line, values) in enumerate(lines, 1):
        with faults.skipping():
            where = f"{file} line {line}"
            check_utf8("\n".join(values), where)
            if len(values) != len(names):
                raise UserError(
                    f"{where}: {len(values)} values for {len(names)} columns. Is a delimiter inside a "
                    "value not in quotes?"
                )
            yield number, Record(dict(zip(names, values, strict=True)), where)


def _read_names(lines: Iterator[tuple[int, list[str]]], file: str) -> list[str]:
    number, names = next(lines, (0, []))
    check_utf8("\n".join(names), f"{file} line {number}")
    if len(set(names)) < len(names):
        raise UserError(f"{file}: two columns have the same name: {', '.join(names)}. Rename one.")
    return names


def _find_delimiter(file: str) -> str:
    """Return what is between the columns: Excel writes `;` where `,` is the decimal mark."""
    known = DELIMITERS[Path(file).suffix.lower()]
    head = next((line for line in _iterate_raw(file) if line.strip()), "")
    names = re.sub(r'"[^"]*"', "", head)
    return max(known, key=names.count)


def _parse_delimited(file: str) -> Iterator[tuple[int, list[str]]]:
    """Yield number and values of the lines that are not blank; the first has the names of the columns."""
    # Strict: otherwise an unclosed quote would swallow the rest of the file.
    reader = csv.reader(_iterate_raw(file), delimiter=_find_delimiter(file), strict=True)
    try:
        for values in reader:
            if any(map(str.strip, values)):  # Excel writes rows of empty cells
                yield reader.line_num, values
    except csv.Error as error:
        raise UserError(f"{file} line {reader.line_num}: {error}.") from error


def _read_parquet(file: str) -> Iterator[tuple[int, Record]]:
    number = 0
    try:
        for batch in _open_parquet(file).iter_batches(batch_size=64):
            for row in batch.to_pylist():
                number += 1
                yield number, Record(row, f"{file} row {number}")
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: cannot be read after row {number} ({error}); copy it again.") from error


def _open_parquet(file: str) -> pq.ParquetFile:
    check_file(Path(file))
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: not a parquet file that can be read ({error}); copy it again.") from error
