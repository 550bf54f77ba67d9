"""Strict JSON: what the standard library's decoder accepts or decides silently is an error."""

import json
import threading
from collections import Counter


class JsonError(ValueError):
    """A text that is JSON but cannot be used; the message says why, without the place."""


class StrictDecoder(json.JSONDecoder):
    """Lists in `flaws` each key that an object has twice: the standard decoder keeps the last value."""

    def __init__(self) -> None:
        super().__init__(object_pairs_hook=self._build)
        self.flaws: list[str] = []

    def _build(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        values = dict(pairs)
        if len(values) < len(pairs):
            key = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            name = key[:60] if key.isprintable() else repr(key[:60])
            self.flaws.append(f"the key `{name}` is in one object twice. Remove one of them.")
        return values


_of_thread = threading.local()


def _find_decoder() -> StrictDecoder:
    """Return the decoder of this thread, without flaws: making one takes as long as reading a row."""
    decoder: StrictDecoder | None = getattr(_of_thread, "decoder", None)
    if decoder is None:
        decoder = _of_thread.decoder = StrictDecoder()
    decoder.flaws = []
    return decoder


def parse_json(text: str | bytes) -> object:
    """Return the value of a JSON text.

    Args:
        text: one value, and nothing after it; bytes are UTF-8, and may begin with a byte order mark.

    Raises:
        JsonError: an object has one key twice, or the text is nested too deeply.
        ValueError: it is not whole JSON, not UTF-8, or has a number of thousands of digits.
    """
    decoder = _find_decoder()
    try:
        value: object = decoder.decode(text.decode("utf-8-sig") if isinstance(text, bytes) else text)
    except RecursionError as error:
        raise JsonError("nested too deeply to be read.") from error
    if decoder.flaws:
        raise JsonError(decoder.flaws[0])
    return value
