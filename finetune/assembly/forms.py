"""Whether a grammar of answers allows the right ones."""

from finetune.data.examples.dataset import ExampleDataset
from finetune.errors import UserError
from finetune.tasks.grammar import Grammar, build_form, can_write


def check_forms(examples: ExampleDataset) -> None:
    """Raise if there are examples whose references the grammar does not allow.

    Raises:
        UserError: names the first of them, and how many there are.
    """
    if examples.grammar == Grammar.none:
        return
    faults = []
    for row in examples.iterate_rows():
        text = examples.task.measure_text(row)
        form = build_form(examples.task, examples.grammar, row, text.prefix)
        if form is not None and text.suffixes and not any(can_write(form, one) for one in text.suffixes):
            faults.append(f"row `{row['id']}` with {text.suffixes[0]!r} after {text.prefix!r}")
    if faults:
        raise UserError(
            f"evaluation.grammar={examples.grammar} does not fit the data: it allows no reference "
            f"of {len(faults)} of {len(examples)} {examples.split} examples. The first is {faults[0]}. "
            "evaluation.grammar=none allows everything."
        )
