"""The classes of a set of boxes, and a row for each image and class."""

from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, Value

from finetune.data.examples.identity import digest_code
from finetune.errors import UserError
from finetune.tasks.task import Row


def find_labels(rows: Dataset) -> tuple[str, ...]:
    """Return the classes of all objects but crowds, in alphabetical order.

    Args:
        rows: with a column `objects`.

    Raises:
        UserError: they have none.
    """
    if "objects" not in rows.column_names:
        raise UserError(
            "The task reads the column `objects`, which the data lack; they have: "
            f"{', '.join(rows.column_names)}. Boxes come from dataset=coco, voc, yolo, image_folder, hub "
            "(boxes written as text are read with task=box_text)."
        )
    labels: set[str] = set()
    for batch in rows.select_columns("objects").with_format("arrow").iter(batch_size=10_000):
        objects = pc.list_flatten(batch["objects"])
        if not pa.types.is_struct(objects.type):
            continue  # a custom table without any object has no fields either
        is_crowd = pc.struct_field(objects, "iscrowd").cast(pa.bool_()).fill_null(False)
        labels.update(pc.unique(pc.struct_field(objects, "label").filter(pc.invert(is_crowd))).to_pylist())
    return tuple(sorted(labels))


def expand_per_class(rows: Dataset, ask: Callable[[Row], Sequence[str]]) -> Dataset:
    """Make a row of each pair of image and class; the column `label` names the class.

    Args:
        rows: one for each image, with a column `objects`.
        ask: returns the classes to ask for, given `id` and `objects` of a row.

    Returns:
        Rows with ids `<id>/<class>`; groups are the classes.
    """

    def divide(batch: dict[str, list[object]], code: str) -> dict[str, list[object]]:
        rows_out: dict[str, list[object]] = {name: [] for name in (*batch, "label")}
        for index, row_id in enumerate(batch["id"]):
            for label in ask({"id": row_id, "objects": batch["objects"][index]}):
                values = {name: batch[name][index] for name in batch}
                values |= {"id": f"{row_id}/{label}", "group": label, "label": label}
                for name, value in values.items():
                    rows_out[name].append(value)
        return rows_out

    features = Features({**rows.features, **dict.fromkeys(("group", "label"), Value("string"))})
    # AP stays the same: pycocotools matches each class of each image by itself (COCOeval.evaluateImg).
    return rows.map(
        divide,
        batched=True,
        fn_kwargs={"code": digest_code()},  # `ask` alone does not show in the name that `datasets` caches
        features=features,
        remove_columns=rows.column_names,
        desc="One class a row",
    )
