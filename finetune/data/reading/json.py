"""Read JSON files, whole or item by item."""

import io
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune.data.reading.faults import Faults
from finetune.data.reading.json_stream import Item, JsonStream, explain_error
from finetune.data.reading.record import Record, describe_value
from finetune.errors import UserError
from finetune.strict_json import parse_json


@contextmanager
def open_text(file: Path) -> Iterator[io.TextIOBase]:
    """Open a text in UTF-8, a byte order mark left out.

    Raises:
        UserError: there is no such file, it is a folder or a pipe, or it cannot be read.
    """
    try:
        check_file(file)
        with file.open(encoding="utf-8-sig", newline="") as stream:
            yield stream
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 ({error}). Save it as UTF-8.") from error
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error}).") from error


def check_file(file: Path) -> None:
    """Refuse what is not a regular file: opening a pipe would wait forever.

    Raises:
        UserError: there is no such file, or it is not a file.
    """
    try:
        mode = file.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"No file {file}.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"No file {file} ({error}).") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise UserError(f"{file}: expected a file, got {kind}.")


def read_json(file: Path) -> object:
    """Return the whole content of a file that fits in memory.

    Raises:
        UserError: there is no such file, or it is not whole JSON.
    """
    with open_text(file) as stream:
        text = stream.read()
    try:
        return parse_json(text)
    except ValueError as error:
        raise UserError(f"{file}: {explain_error(error)}") from error


def read_record(file: Path) -> Record:
    """Return the object in a file that fits in memory.

    Raises:
        UserError: there is no such file, or it is not one whole JSON object.
    """
    return Record(read_json(file), str(file))


def iterate_items(faults: Faults, record: Record, key: str) -> Iterator[Record]:
    """Yield the objects of a list in memory; an item of another kind is a fault.

    Raises:
        UserError: there is no such list.
    """
    for number, values in enumerate(record.array(key), 1):
        with faults.skipping():
            yield Record(values, f"{record.where}: `{key}` item {number}")


def index_items(faults: Faults, record: Record, key: str) -> dict[str, Record]:
    """Return the objects of a list in memory by their `id`, which must be unique.

    Raises:
        UserError: there is no such list.
    """
    items: dict[str, Record] = {}
    for item in iterate_items(faults, record, key):
        with faults.skipping():
            item_id = item.identifier("id")
            if item_id in items:
                raise UserError(f"{item.where}: id {item_id} is duplicated; ids must be unique.")
            items[item_id] = item
    return items


def iterate_records(faults: Faults, file: Path, key: str | None = None) -> Iterator[tuple[int, Record]]:
    """Yield numbers, from 1, and objects of an array that `iterate_json_array` reads.

    An item that is not an object, or has a key twice, is a fault.

    Raises:
        UserError: as in `iterate_json_array`.
    """
    for number, item in enumerate(_iterate_array(file, key), 1):
        where = f"{file} item {number}"
        with faults.skipping():
            yield number, Record(_check(item, where), where)


def iterate_json_array(file: Path, key: str | None = None) -> Iterator[object]:
    """Yield the items of `{"...": ..., key: [item, item, ...]}`.

    Args:
        file: the JSON file.
        key: name of the array in the object at the top; None: the file is the array.

    Raises:
        UserError: there is no such file or array, or the file is not whole JSON.
    """
    for number, item in enumerate(_iterate_array(file, key), 1):
        yield _check(item, f"{file} item {number}")


def iterate_json_object(file: Path) -> Iterator[tuple[str, object]]:
    """Yield keys and values of `{key: value, key: value, ...}`; a key may be repeated.

    Raises:
        UserError: there is no such file or object, or the file is not whole JSON.
    """
    with _open_json(file, "{", "object at its top") as reader:
        for key in reader.object():
            yield key, _check(reader.value(), f"{file}: `{key}`")
        reader.end()


def read_member(file: Path, key: str) -> object:
    """Return one value of the object at the top of a file that need not fit in memory; None without it.

    Raises:
        UserError: there is no such file or object, or the file is not whole JSON.
    """
    with _open_json(file, "{", "object at its top") as reader:
        for name in reader.object():
            if name == key:
                return reader.value().value
            reader.skip()
    return None


def _missing(file: Path, name: str) -> str:
    return f"{file}: no {name}. Is it the right file, and whole?"


@contextmanager
def _open_json(file: Path, opening: str, name: str) -> Iterator[JsonStream]:
    """Open a JSON file whose first character is known.

    Args:
        file: the JSON file.
        opening: `{` or `[`.
        name: the part that is read, for error messages.

    Raises:
        UserError: there is no such file, or it begins with another character.
    """
    with open_text(file) as stream:
        reader = JsonStream(stream, file, name)
        if reader.peek() != opening:
            raise UserError(_missing(file, name))
        yield reader


def _check(item: Item, where: str) -> object:
    if item.flaws:
        raise UserError(f"{where}: {item.flaws[0]}")
    return item.value


def _iterate_array(file: Path, key: str | None) -> Iterator[Item]:
    name = "array at its top" if key is None else f"array `{key}`"
    with _open_json(file, "[" if key is None else "{", name) as reader:
        if key is None:
            yield from reader.array(reader.value)
        else:
            times = 0
            for member in reader.object():
                if member != key:
                    reader.skip()
                    continue
                times += 1
                if times > 1:
                    raise UserError(f"{file}: the key `{key}` is at its top twice. Remove one of them.")
                if reader.peek() != "[":
                    value = describe_value(reader.value().value)
                    raise UserError(f"{file}: `{key}`: expected a list, got {value}.")
                yield from reader.array(reader.value)
            if not times:
                raise UserError(_missing(file, name))
        reader.end()
