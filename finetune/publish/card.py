"""The model card: the README.md of a result, as the Hub reads it and as a person does.

It has what the run knows, and nothing of the machine that it ran on: no images, no rows, no absolute path.
"""

import hashlib
import logging
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from finetune.config.secrets import find_secrets
from finetune.errors import UserError, printable
from finetune.metrics.units import unit_of
from finetune.publish.facts import ResultKind, RunFacts, last_name, read_facts
from finetune.publish.loading import show_code, show_decoding
from finetune.publish.scores import Score, ScoredSet
from finetune.publish.settings import describe_data, describe_training, hide_paths
from finetune.report.page import format_number, render
from finetune.run.files import write_text
from finetune.run.folder import RunFolder

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

log = logging.getLogger(__name__)

CARD = "README.md"

_MOST_LABELS = 50
"""Classes that a card lists; some data have thousands."""
_LONGEST_NAME = 60
"""Characters of a class that a card shows."""

_MARK = re.compile(r"\n<!-- card sha256:([0-9a-f]{64}) -->\n?$")
_BLANKS = re.compile(r"^(`{3,}).*?^\1$|\n{3,}", re.DOTALL | re.MULTILINE)
"""A block of code, or more than one blank line."""
_EMPTY = "[More Information Needed]"
"""What PEFT's template says in every section."""

_TASKS = {
    "boxes": ("object-detection", "Object detection"),
    "masks": ("image-segmentation", "Image segmentation"),
    "caption": ("image-to-text", "Image captioning"),
    "vqa": ("visual-question-answering", "Visual question answering"),
}
_OTHER_TASK = ("image-text-to-text", "Image and text to text")


@dataclass(frozen=True)
class Row:
    """A score as a card shows it."""

    field: str
    value: str
    unit: str
    interval: str
    blank: str


def write_card(facts: RunFacts, repo: str | None = None, merged: str | None = None) -> str:
    """Return the text of a model card.

    Args:
        facts: what the run says.
        repo: Hub id of the repository that the card is for; None: for the folder of the result, where the
            code of the card runs.
        merged: format of the weights of a merged model, such as `bfloat16`; None: the result as it is.

    Raises:
        UserError: something in it looks like a secret.
    """
    is_adapter = merged is None and facts.kind == ResultKind.adapter
    head = _write_head(facts, repo, merged)
    text = head + render(
        "card.md.j2",
        package="finetune.publish",
        facts=facts,
        title=_title(facts, repo),
        kind=_describe_kind(facts, merged),
        is_adapter=is_adapter,
        repo=repo,
        merged=merged,
        code=show_code(facts, repo, merged),
        bits=facts.setting("peft.bits") if is_adapter else 16,
        resize=facts.setting("image.resize"),
        grammar=facts.setting("evaluation.grammar") or "none",
        prompts=[_describe_prompt(facts, number) for number in range(len(facts.prompts))],
        sets=[(_title_set(scored), scored, _list_rows(scored)) for scored in facts.scored],
        data=describe_data(facts),
        training=describe_training(facts),
        command=shlex.join(hide_paths(facts.command)),
        is_gemma=not facts.base.is_tiny,
    )
    text = _BLANKS.sub(lambda match: match[0] if match[1] else "\n\n", text).rstrip("\n") + "\n"
    for _ in find_secrets({"card": text}, frozenset({"card"})):
        raise UserError(
            f"The card of {facts.name} would hold what looks like a secret: it is not written. Look for it "
            "in the run's config.yaml and environment.json."
        )
    return f"{text}\n<!-- card sha256:{hashlib.sha256(text.encode()).hexdigest()} -->\n"


def update_card(folder: RunFolder) -> None:
    """Write the card of a finished run next to its result, unless a user has changed it.

    A folder without a result, such as that of an evaluation, gets none.

    Raises:
        UserError: see `read_facts` and `write_card`.
    """
    if not (folder.adapter.is_dir() or folder.model.is_dir()):
        return
    facts = read_facts(folder.root)
    result = folder.adapter if facts.kind == ResultKind.adapter else folder.model
    file = result / CARD
    if file.is_file() and is_edited(file.read_text(encoding="utf-8", errors="replace")):
        log.info("%s was changed by hand and is kept", file)
        return
    write_text(file, write_card(facts))


def is_edited(text: str) -> bool:
    """Return whether a card is not, or no longer, as `write_card` or PEFT wrote it."""
    mark = _MARK.search(text)
    if mark is None:
        return text.count(_EMPTY) < 10
    return hashlib.sha256(text[: mark.start()].encode()).hexdigest() != mark[1]


def _title(facts: RunFacts, repo: str | None) -> str:
    return (repo or facts.name).rpartition("/")[2]


def _describe_kind(facts: RunFacts, merged: str | None) -> str:
    if facts.kind == ResultKind.model:
        return "A full fine-tuning"
    if merged is None:
        return f"A {facts.method} adapter"
    return f"A {facts.method} adapter merged, in {merged}, into the weights"


def _write_head(facts: RunFacts, repo: str | None, merged: str | None) -> str:
    """Return the metadata block."""
    from huggingface_hub import ModelCardData

    is_adapter = merged is None and facts.kind == ResultKind.adapter
    base = facts.base
    tags = ["paligemma", *([facts.method.split()[0].lower()] if facts.kind == ResultKind.adapter else [])]
    results = list(_list_results(facts))
    data: dict[str, Any] = ModelCardData(
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="image-text-to-text",
        license="apache-2.0" if base.is_tiny else "gemma",
        base_model=base.hub_id,
        base_model_relation=None if base.hub_id is None else "adapter" if is_adapter else "finetune",
        datasets=facts.dataset_ids or None,
        tags=tags,
        model_name=_plain(_title(facts, repo)),
        eval_results=results or None,
    ).to_dict()  # type: ignore[no-untyped-call]
    if not results:
        data.pop("model_name", None)
    written = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=10**6)
    return f"---\n{written}---\n\n"


def _list_results(facts: RunFacts) -> "Iterator[EvalResult]":
    """Yield the scores of the run's own sets in the form of the Hub's `model-index`."""
    from huggingface_hub import EvalResult

    task_type, task_name = _find_task(facts)
    ids, kind = facts.dataset_ids, _plain(facts.choices.get("dataset", "custom"))
    for scored in facts.scored:
        if scored.command:
            continue  # a later evaluation may be of other data, or only of a part
        for score in scored.scores:
            arguments: dict[str, object] = {"n": scored.n}
            if unit := unit_of(score.field):
                arguments["unit"] = unit
            if score.interval is not None:
                arguments["interval_95"] = [round(end, 4) for end in score.interval]
            yield EvalResult(
                task_type=task_type,
                task_name=task_name,
                dataset_type=ids[0] if ids else kind,
                dataset_name=_plain(last_name(facts.dataset or kind)),
                dataset_split=scored.split,
                metric_type=score.field,
                metric_name=_name_metric(score, scored.n),
                metric_value=round(score.value, 4),
                metric_args=arguments,
            )


def _name_metric(score: Score, n: int) -> str:
    unit = unit_of(score.field)
    if score.interval is None:
        about = [unit, f"n = {n}"]
    else:
        low, high = map(format_number, score.interval)
        about = [unit, f"95 % interval {low} to {high}", f"n = {n}"]
    return f"{score.field} ({', '.join(text for text in about if text)})"


def _find_task(facts: RunFacts) -> tuple[str, str]:
    prompts = facts.prompts
    if len(prompts) != 1:
        return _OTHER_TASK
    if prompts[0].boxes:
        return _TASKS["masks" if prompts[0].masks else "boxes"]
    choice = facts.choices.get("task", "")
    return _TASKS["caption"] if choice == "caption" else _TASKS["vqa"] if choice == "vqa" else _OTHER_TASK


def _title_set(scored: ScoredSet) -> str:
    if not scored.command:
        return f"{scored.split.capitalize()} split"
    return f"Later evaluation, {scored.split} split"


def _list_rows(scored: ScoredSet) -> list[Row]:
    return [
        Row(
            score.field,
            format_number(score.value),
            unit_of(score.field),
            " to ".join(map(format_number, score.interval)) if score.interval else "",
            "" if score.blank is None else format_number(score.blank),
        )
        for score in scored.scores
    ]


def _describe_prompt(facts: RunFacts, number: int) -> dict[str, object]:
    prompt = facts.prompts[number]
    shown = [_shorten(label) for label in prompt.labels[:_MOST_LABELS]]
    return {
        "prompt": prompt,
        "example": prompt.example,
        "labels": shown,
        "more": len(prompt.labels) - len(shown),
        "blanks": [name for name in prompt.columns if name != "labels"] if prompt.text is None else [],
        "decoding": show_decoding(prompt.divisor) if prompt.boxes else "",
    }


def _shorten(label: str) -> str:
    return label if len(label) <= _LONGEST_NAME else f"{label[: _LONGEST_NAME - 1]}…"


def _plain(text: str) -> str:
    return " ".join(printable(text).split())
