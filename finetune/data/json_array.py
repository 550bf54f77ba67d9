"""Read a large JSON file's array item by item: the whole of it need not fit in memory."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.errors import UserError

_CHUNK = 1 << 20
_SPACE_OR_COMMA = re.compile(r"[\s,]*")


def iterate_json_array(file: Path, key: str) -> Iterator[Any]:
    """Yield the items of `{"...": ..., key: [item, item, ...]}`.

    Args:
        file: the JSON file; an object at the top.
        key: name of the array.

    Raises:
        UserError: there is no such file or key, or the file ends in the middle.
    """
    if not file.is_file():
        raise UserError(f"No file {file}.")
    decoder = json.JSONDecoder()
    start = re.compile(rf'"{re.escape(key)}"\s*:\s*\[')
    with file.open(encoding="utf-8") as stream:
        text = ""
        while not (found := start.search(text)):
            chunk = stream.read(_CHUNK)
            if not chunk:
                raise UserError(f"{file}: no array `{key}`. Is it the right file, and whole?")
            text += chunk
        position = found.end()
        while True:
            match = _SPACE_OR_COMMA.match(text, position)
            position = match.end() if match else position
            if text[position : position + 1] == "]":
                return
            try:
                item, end = decoder.raw_decode(text, position)
                # A number may go on in the next piece; something always follows an item.
                whole, problem = end < len(text), "no `]`"
            except json.JSONDecodeError as error:
                whole, problem = False, error.msg
            if whole:
                yield item
                position = end
                continue
            chunk = stream.read(_CHUNK)
            if not chunk:
                raise UserError(f"{file}: ends in the middle of `{key}` ({problem}); copy it again.")
            text, position = text[position:] + chunk, 0
