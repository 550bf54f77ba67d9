"""The turns of a conversation, and its images, whatever the program that wrote it."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from finetune.data.reading.record import Record, describe_value
from finetune.errors import UserError

ASKS = ("human", "user")
ANSWERS = ("gpt", "assistant", "model", "bot")
PLACEHOLDER = "<image>"

_LISTS = ("conversations", "messages", "conversation")


class Turn(NamedTuple):
    """What one side says."""

    role: str
    text: str


def read_turns(record: Record) -> list[Turn]:
    """Return every turn, including a separate `system`.

    Lists of `from` and `value` (LLaVA, ShareGPT), `role` and `content` (chat messages), or `human` and
    `assistant` (ms-swift); or a single question: `query` and `response` with `history` (ms-swift),
    `instruction`, `input` and `output` (Alpaca), or `prompt` and `completion`, texts or turns (TRL).

    Raises:
        UserError: there are none, or one is not as expected.
    """
    turns = [Turn("system", str(record["system"]))] if record.get("system") else []
    listed = next((record[key] for key in _LISTS if record.get(key)), None)
    if isinstance(listed, list):
        for number, turn in enumerate(listed, 1):
            turns += _read_turn(Record(turn, f"{record.where} turn {number}"))
        return turns
    if listed is None and not any(key in record for key in _LISTS):
        if "query" in record:
            return [*turns, *_read_history(record), *_ask(record, record["query"], record["response"])]
        if {"prompt", "completion"} <= record.keys():
            return [
                *turns,
                *_read_side(record, "prompt", "user"),
                *_read_side(record, "completion", "assistant"),
            ]
        if "instruction" in record:
            question = [record[key] for key in ("instruction", "input") if record.get(key)]
            return [*turns, *_ask(record, "\n".join(map(str, question)), record["output"])]
    if isinstance(record.get("messages"), list) or isinstance(record.get("conversations"), list):
        return turns
    raise UserError(
        f"{record.where}: no list `conversations` or `messages`, and no `query` with `response`; the keys "
        f"are: {', '.join(record) or 'none'}."
    )


def _read_side(record: Record, key: str, role: str) -> list[Turn]:
    """Return the turns of TRL's `prompt` or `completion`; a text is one turn."""
    value = record[key]
    if not isinstance(value, list):
        return [Turn(role, _join_parts(value, f"{record.where}: `{key}`"))]
    places = enumerate(value, 1)
    return [turn for n, item in places for turn in _read_turn(Record(item, f"{record.where} `{key}` {n}"))]


def _ask(record: Record, question: object, answer: object) -> list[Turn]:
    for text in (question, answer):
        if not isinstance(text, str):
            raise UserError(f"{record.where}: expected a text, got {describe_value(text)}.")
    return [Turn("user", str(question)), Turn("assistant", str(answer))]


def _read_history(record: Record) -> Iterator[Turn]:
    for pair in record.array("history") if record.get("history") else ():
        if not isinstance(pair, list) or len(pair) != 2:
            raise UserError(
                f"{record.where}: `history`: expected pairs of texts, got {describe_value(pair)}."
            )
        yield from _ask(record, *pair)


def _read_turn(turn: Record) -> list[Turn]:
    if {"human", "assistant"} <= turn.keys():
        return _ask(turn, turn["human"], turn["assistant"])
    role, content = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
    if not isinstance(role, str):
        raise UserError(f"{turn.where}: no `from` or `role`; the keys are: {', '.join(turn)}.")
    return [Turn(role, _join_parts(content, turn.where))]


def _join_parts(content: object, where: str) -> str:
    """Return the text of a turn, which may be a list of parts."""
    if isinstance(content, str):
        return content
    texts = []
    for part in content if isinstance(content, list) else [content]:
        values = part if isinstance(part, dict) else {}
        if isinstance(values.get("text"), str) and values.get("type", "text") == "text":
            texts.append(values["text"])
        elif values.get("type") not in {"image", "image_url"}:
            raise UserError(
                f"{where}: expected a text, or a list of text and image parts, got {content!r}."
            )
    return "\n".join(texts)


def name_images(record: Mapping[str, object]) -> list[object]:
    """Return the names of the images: `image`, `images`, or those that parts of messages name.

    An image may be an object with a `path`, as `datasets` writes it, or a `url`, as in chat messages.
    """
    names = record.get("image") or record.get("images") or name_parts(record)
    return [_name_image(name) for name in (names if isinstance(names, list) else [names])]


def name_parts(record: Mapping[str, object]) -> list[object]:
    """Return the names of the images that parts of messages name."""
    return [name for part in _list_parts(record) if (name := _name_image(part))]


def _list_parts(record: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """Yield the image parts of messages."""
    turns = record.get("messages")
    for turn in turns if isinstance(turns, list) else ():
        content = turn.get("content") if isinstance(turn, dict) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and part.get("type") in {"image", "image_url"}:
                yield part


def _name_image(value: object) -> object:
    while isinstance(value, Mapping):
        keys = ("image", "image_url", "path", "url")
        value = next((value[key] for key in keys if value.get(key)), None)
    return value
