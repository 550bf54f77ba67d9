"""Conversations about images: LLaVA's JSON, ShareGPT, chat messages, and query with response."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from finetune.data.cache import PLACE
from finetune.data.formats.grounding import fill_placeholders
from finetune.data.formats.jsonl import (
    FEATURES,
    FEATURES_OF_SEVERAL,
    check_texts,
    place_images,
    read_name,
)
from finetune.data.formats.splits import find_image_dirs, find_split_files, list_files, load_files
from finetune.data.formats.turns import (
    ANSWERS,
    ASKS,
    PLACEHOLDER,
    Turn,
    name_images,
    name_parts,
    read_turns,
)
from finetune.data.layouts.texts import find_conversations, find_image_folders
from finetune.data.objects import Note
from finetune.data.options import Conversations
from finetune.data.reading.faults import Faults, reading
from finetune.data.reading.record import Record
from finetune.data.reading.tables import read_json_rows
from finetune.data.rows import Row, Splits
from finetune.errors import UserError

FOREIGN = ("<video>", "<audio>", "<box>", "<quad>", "<point>")
"""Placeholders of other programs for what PaliGemma does not read, or reads in another form."""
FOREIGN_KEYS = ("videos", "audios", "rejected_response", "tools")
"""Keys of other programs for the same."""

_REPEATED = "conversations have the id of another one and were numbered (`id#2`)"


def load_conversations(options: Conversations) -> Splits:
    """Read the files of both splits, or hold out a share of `train`: JSON lists, or JSON Lines.

    PaliGemma answers a single prompt: each question and its answer become a separate example without the
    turns before it, so a question that refers to them cannot be answered. A system turn has no place
    either and is a fault, unless it is ignored.
    """
    files = find_split_files(options, find_conversations, "a JSON file of conversations")
    several = any(map(has_several_images, list_files(files)))
    features = FEATURES_OF_SEVERAL if several else FEATURES
    return load_files(
        read_conversations,
        features,
        options,
        files,
        ignore_system=options.ignore_system,
        skip_text_only=options.skip_text_only,
        several=several,
        clip=options.clip,
    )


def has_several_images(file: str) -> bool:
    """Return whether a conversation has more than one image; the others then have a list of one."""
    with reading(file):
        return any(len(name_images(row)) > 1 for _, row in read_json_rows(Faults(skip=True), file))


def read_conversations(
    faults: Faults,
    file: str,
    image_dir: str | None,
    ignore_system: bool,
    skip_text_only: bool,
    several: bool,
    clip: bool,
) -> Iterator[Row]:
    """Yield a row for every question with an answer; ids are `<id>/<turn>`, from 1.

    Args:
        faults: what to do with a conversation that cannot be used.
        file: a JSON list, or JSON Lines.
        image_dir: folder of the images; None: the folder of the file.
        ignore_system: leave system turns out.
        skip_text_only: leave conversations without an image out.
        several: rows have lists of images.
        clip: clip boxes that are partly outside their images.
    """
    folders = find_image_dirs(file, image_dir, find_image_folders)
    ids: Counter[str] = Counter()
    for number, record in read_json_rows(faults, file):
        with faults.skipping():
            if skip_text_only and not name_images(record):
                faults.leave_out(f"{record.where}: it has no image (dataset.skip_text_only).")
                continue
            row_id = read_name(record, "id") or str(number)
            ids[row_id] += 1
            if ids[row_id] > 1:
                faults.note(_REPEATED, record.where)
                row_id = f"{row_id}#{ids[row_id]}"
            turns = check_turns(record, ignore_system)
            yield from _convert(record, turns, row_id, folders, several, faults.note if clip else None)


def check_turns(record: Record, ignore_system: bool) -> list[Turn]:
    """Return the turns other than those of the system.

    Args:
        record: the conversation.
        ignore_system: leave system turns out.

    Raises:
        UserError: there is a system turn, or what PaliGemma does not read.
    """
    turns = read_turns(record)
    if any(turn.role == "system" for turn in turns) and not ignore_system:
        raise UserError(
            f"{record.where}: it has a system turn, for which PaliGemma has no place. Leave such turns "
            "out: dataset.ignore_system=true."
        )
    mark = next((mark for mark in FOREIGN for turn in turns if mark in turn.text), None)
    key = next((key for key in FOREIGN_KEYS if record.get(key)), None)
    if mark is not None or key is not None:
        what = f"the placeholder {mark}" if mark else f"`{key}`"
        raise UserError(
            f"{record.where}: it has {what}, which is not filled in here. Write boxes into the texts as "
            "PaliGemma does, `<locYMIN><locXMIN><locYMAX><locXMAX> label` with numbers of 0000 to 1023, or "
            "as COCO's JSON (dataset=coco); videos as several images. Or leave such rows out."
        )
    return [turn for turn in turns if turn.role != "system"]


def _convert(
    record: Record,
    turns: list[Turn],
    row_id: str,
    folders: Sequence[Path],
    several: bool,
    clip: Note | None,
) -> list[Row]:
    """Return the rows of one conversation."""
    where, names = record.where, name_images(record)
    if not names:
        raise UserError(f"{where}: no `image` or `images`; PaliGemma needs an image.")
    if (parts := name_parts(record)) and parts != names:
        raise UserError(
            f"{where}: parts of its messages name other images than `images`: {str(parts)[:200]}."
        )
    marks = [turn.text.count(PLACEHOLDER) for turn in turns]
    if sum(marks) not in {0, len(names)}:
        raise UserError(f"{where}: {sum(marks)} {PLACEHOLDER} for {len(names)} images.")
    turns = fill_placeholders(record, turns, names, folders, clip)
    rows: list[Row] = []
    for number, (question, answer) in enumerate(pair_turns(turns, where), 1):
        # An image of a later turn is not yet there; without marks all images are there from the start.
        seen = names[: sum(marks[: 2 * number])] if sum(marks) else names
        if not seen:
            raise UserError(f"{where}: question {number} has no image before it.")
        images = place_images(seen if several else seen[0], folders, several, where)
        answers = check_texts([answer], f"answer {number}", where)
        head = {"id": f"{row_id}/{number}", "group": None, **images, PLACE: where}
        rows.append({**head, "prefix": question, "suffixes": answers})
    return rows


def pair_turns(turns: Sequence[Turn], where: str) -> list[tuple[str, str]]:
    """Return the questions and their answers, without marks of images.

    Raises:
        UserError: the two sides do not take turns.
    """
    texts = [
        turn.text.replace(PLACEHOLDER, "").strip() if PLACEHOLDER in turn.text else turn.text
        for turn in turns
    ]
    asked, answered = turns[::2], turns[1::2]
    order = [turn.role in ASKS for turn in asked] + [turn.role in ANSWERS for turn in answered]
    if not turns or len(asked) != len(answered) or not all(order):
        roles = ", ".join(turn.role for turn in turns) or "none"
        raise UserError(
            f"{where}: expected {' or '.join(ASKS)} and {' or '.join(ANSWERS)} by turns, got: {roles}."
        )
    return list(zip(texts[::2], texts[1::2], strict=True))
