"""Conversations about images: LLaVA's JSON, ShareGPT, and chat messages."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from finetune.data.cache import PLACE
from finetune.data.formats.jsonl import (
    FEATURES,
    FEATURES_OF_SEVERAL,
    check_texts,
    place_images,
    read_name,
)
from finetune.data.formats.splits import find_file, find_image_dir, load_files
from finetune.data.options import Conversations
from finetune.data.reading.faults import Faults, reading
from finetune.data.reading.json import iterate_records
from finetune.data.reading.record import Record
from finetune.data.reading.tables import iterate_lines, read_json_lines
from finetune.data.rows import Row, Splits
from finetune.errors import UserError

ASKS = ("human", "user")
ANSWERS = ("gpt", "assistant", "model")
PLACEHOLDER = "<image>"
FOREIGN = ("<video>", "<audio>", "<bbox>", "<ref-object>", "<box>", "<quad>", "<point>")
"""Placeholders of other programs for what PaliGemma does not read, or reads in another form."""
FOREIGN_KEYS = ("objects", "videos", "audios", "rejected_response", "tools")
"""Keys of other programs for the same."""


def load_conversations(options: Conversations) -> Splits:
    """Read the files of both splits, or hold out a share of `train`: JSON lists, or JSON Lines.

    PaliGemma answers a single prompt: each question and its answer become a separate example without the
    turns before it, so a question that refers to them cannot be answered. A system turn has no place
    either and is a fault, unless it is ignored.
    """
    with reading(file := find_file(options.train)):
        first = next(_read_records(Faults(skip=True), file), None)
        several = first is not None and len(_name_images(first[1])) > 1
    features = FEATURES_OF_SEVERAL if several else FEATURES
    return load_files(
        read_conversations, features, options, ignore_system=options.ignore_system, several=several
    )


def read_conversations(
    faults: Faults, file: str, image_dir: str | None, ignore_system: bool, several: bool
) -> Iterator[Row]:
    """Yield a row for every question with an answer; ids are `<id>/<turn>`, from 1.

    Each conversation has one image, or with `several` more than one.
    """
    folder = find_image_dir(file, image_dir)
    for number, record in _read_records(faults, file):
        with faults.skipping():
            yield from _convert(record, number, folder, ignore_system, several)


def _read_records(faults: Faults, file: str) -> Iterator[tuple[int, Record]]:
    start = next((line.lstrip()[:1] for line in iterate_lines(file) if line.strip()), "")
    if start != "[":
        return read_json_lines(faults, file)
    return iterate_records(faults, Path(file))


def _convert(record: Record, number: int, folder: Path, ignore_system: bool, several: bool) -> list[Row]:
    where, names, turns = record.where, _name_images(record), _read_turns(record)
    if (len(names) > 1) != several:
        expected = "several images, as the first has" if several else "one image"
        raise UserError(f"{where}: expected {expected}, got {len(names)}.")
    if not names:
        raise UserError(f"{where}: no `image` or `images`; PaliGemma needs an image.")
    if any(role == "system" for role, _ in turns) and not ignore_system:
        raise UserError(
            f"{where}: it has a system turn, for which PaliGemma has no place. Leave such turns out: "
            "dataset.ignore_system=true."
        )
    _check_foreign(record, turns)
    marks = sum(text.count(PLACEHOLDER) for _, text in turns)
    if marks not in {0, len(names)}:
        raise UserError(f"{where}: {marks} {PLACEHOLDER} for {len(names)} images.")
    images = place_images(names if several else names[0], folder, several, where)
    row_id, head = read_name(record, "id") or number, {"group": None, **images}
    return [
        {
            "id": f"{row_id}/{turn}",
            **head,
            "prefix": question,
            "suffixes": check_texts([answer], f"answer {turn}", where),
            PLACE: where,
        }
        for turn, (question, answer) in enumerate(_pair(turns, where), 1)
    ]


def _check_foreign(record: Record, turns: Sequence[tuple[str, str]]) -> None:
    """Refuse what would be trained on literally, or dropped silently.

    Raises:
        UserError: names the mark or the key.
    """
    mark = next((mark for mark in FOREIGN for _, text in turns if mark in text), None)
    key = next((key for key in FOREIGN_KEYS if record.get(key)), None)
    if mark is not None or key is not None:
        what = f"the placeholder {mark}" if mark else f"`{key}`"
        raise UserError(
            f"{record.where}: it has {what}, which is not filled in here. Write boxes into the texts as "
            "PaliGemma does, `<locYMIN><locXMIN><locYMAX><locXMAX> label` with numbers of 0000 to 1023, or "
            "as COCO's JSON (dataset=coco); videos as several images. Or leave such rows out."
        )


def _pair(turns: Sequence[tuple[str, str]], where: str) -> list[tuple[str, str]]:
    """Return the questions and their answers."""
    spoken = [
        (role, text.replace(PLACEHOLDER, "").strip() if PLACEHOLDER in text else text)
        for role, text in turns
        if role != "system"
    ]
    asked, answered = spoken[::2], spoken[1::2]
    order = [role in ASKS for role, _ in asked] + [role in ANSWERS for role, _ in answered]
    if not spoken or len(asked) != len(answered) or not all(order):
        roles = ", ".join(role for role, _ in spoken) or "none"
        raise UserError(
            f"{where}: expected {' or '.join(ASKS)} and {' or '.join(ANSWERS)} by turns, got: {roles}."
        )
    return [(question, answer) for (_, question), (_, answer) in zip(asked, answered, strict=True)]


def _read_turns(record: Record) -> list[tuple[str, str]]:
    """Return role and text of every turn, including a separate `system`."""
    turns = record.get("conversations") or record.get("messages")
    if not isinstance(turns, list):
        raise UserError(
            f"{record.where}: no list `conversations` or `messages`; the keys are: "
            f"{', '.join(record) or 'none'}."
        )
    roles = [("system", str(record["system"]))] if record.get("system") else []
    for number, turn in enumerate(turns, 1):
        place = f"{record.where} turn {number}"
        turn = Record(turn, place)
        role, content = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
        if not isinstance(role, str):
            raise UserError(f"{place}: no `from` or `role`; the keys are: {', '.join(turn)}.")
        roles.append((role, _join_parts(content, place)))
    return roles


def _join_parts(content: object, where: str) -> str:
    """Return the text of a turn, which may be a list of parts."""
    if isinstance(content, str):
        return content
    texts = []
    for part in content if isinstance(content, list) else [content]:
        values = part if isinstance(part, dict) else {}
        if values.get("type") == "text" and isinstance(values.get("text"), str):
            texts.append(values["text"])
        elif values.get("type") != "image":
            raise UserError(
                f"{where}: expected a text, or a list of text and image parts, got {content!r}."
            )
    return "\n".join(texts)


def _name_images(record: Mapping[str, object]) -> list[object]:
    """Return the names of the images: `image`, `images`, or those that parts of messages name."""
    names = record.get("image") or record.get("images")
    if not names:
        turns = record.get("messages")
        turns = turns if isinstance(turns, list) else []
        contents = [turn.get("content") for turn in turns if isinstance(turn, dict)]
        parts = [part for content in contents if isinstance(content, list) for part in content]
        return [part["image"] for part in parts if isinstance(part, dict) and part.get("image")]
    return names if isinstance(names, list) else [names]
