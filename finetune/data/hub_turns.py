"""Datasets of conversations on the Hub: The Cauldron's `texts`, and chat messages."""

from collections.abc import Mapping

from datasets import Dataset, Features, Image, List, Value

from finetune.data.formats.conversations import check_turns, pair_turns
from finetune.data.formats.turns import Turn
from finetune.data.hub_rows import holds_images
from finetune.data.reading.record import Record
from finetune.data.rows import PICTURE
from finetune.errors import UserError

COLUMNS = {name: name for name in ("id", "images", "prefix", "suffixes")}
"""Columns of what `expand_turns` returns."""

_TURNS = ("texts", "messages", "conversations")
_FEATURES = Features(
    {
        "id": Value("string"),
        "images": List(PICTURE),
        "prefix": Value("string"),
        "suffixes": List(Value("string")),
    }
)


def find_turns(features: Features) -> str | None:
    """Return the column of turns: a list of structs next to `images` or `image`."""
    named = [name for name in _TURNS if isinstance(features.get(name), List)]
    images = not features.keys().isdisjoint(("images", "image"))
    return next((name for name in named if not isinstance(features[name].feature, Value) and images), None)


def expand_turns(rows: Dataset, column: str, where: str) -> Dataset:
    """Return a row for each question and its answer, with ids `<row>/<turn>` and the images of the row.

    Args:
        rows: with `images` or `image`.
        column: of the turns, from `find_turns`.
        where: dataset and split, for error messages.

    Raises:
        UserError: a row cannot be used.
    """
    source = "images" if "images" in rows.column_names else "image"
    kind = rows.features[source]
    inner = kind.feature if isinstance(kind, List) else kind
    if not holds_images(inner):
        raise UserError(f"{where}: column `{source}`: expected images inside the rows, got {kind}.")
    plain = Image(decode=False)
    rows = rows.cast_column(source, List(plain) if isinstance(kind, List) else plain)

    def expand(batch: Mapping[str, list[object]], indices: list[int]) -> dict[str, list[object]]:
        made: dict[str, list[object]] = {name: [] for name in _FEATURES}
        for index, turns, images in zip(indices, batch[column], batch[source], strict=True):
            place = f"{where}, row {index}"
            listed = images if isinstance(images, list) else [images]
            for number, (question, answer) in enumerate(_pair(turns, column, place), 1):
                values = (f"{index}/{number}", listed, question, [answer])
                for name, value in zip(_FEATURES, values, strict=True):
                    made[name].append(value)
        return made

    return rows.map(
        expand,
        batched=True,
        batch_size=32,
        with_indices=True,
        features=_FEATURES,
        remove_columns=rows.column_names,
        desc="Reading turns",
    )


def _pair(turns: object, column: str, where: str) -> list[tuple[str, str]]:
    record = Record({column: turns}, where)
    if column == "texts":
        pairs = [(pair.text("user"), pair.text("assistant")) for pair in record.records(column)]
        listed = [
            Turn(role, text)
            for pair in pairs
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
    else:
        listed = check_turns(record, ignore_system=False)
    return pair_turns(listed, where)
