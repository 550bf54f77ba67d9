"""The word `data=FOLDER`: what lies there is recognized, and the words that it stands for are written out.

This is done before anything is composed, so that a run's config, its command, and a repetition of it have
the options themselves and nothing is recognized twice.
"""

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from omegaconf import DictConfig, OmegaConf

from finetune.config.jobs import JOBS, has_option
from finetune.errors import UserError

if TYPE_CHECKING:
    from finetune.data.recognition.kinds import Recognition

DATA = "data"
RECIPES = {
    "detection": "detect_qlora",
    "segmentation": "segment_qlora",
    "question": "vqa_qlora",
    "caption": "caption_qlora",
    "classes": "classify_qlora",
    "extraction": "extract_qlora",
    "pairs": "text_qlora",
    "long_pairs": "text_qlora",
    "box_pairs": "text_qlora",
}
"""Name of a `Kind` -> the recipe for it."""

_RECIPE_OF_TASK = {
    "detection": "detect_qlora",
    "segmentation": "segment_qlora",
    "vqa": "vqa_qlora",
    "caption": "caption_qlora",
}
_MORE = {
    "long_pairs": {"metric": "caption"},
    "box_pairs": {
        "task": "box_text",
        "metric": "detection",
        "evaluation.metric_for_best_model": "ap",
        "evaluation.strategy": "epoch",
    },
}
"""Name of a `Kind` -> what its recipe does not have."""
_HELD_OUT = "0.1"


class WrittenOut(NamedTuple):
    """The words of a command, with `data=` written out."""

    words: list[str]
    about: str | None
    """What was recognized; None without `data=`."""


def write_out(job: str, words: list[str], quote_commas: bool = False) -> WrittenOut:
    """Replace `data=FOLDER`, or `dataset=auto dataset.path=FOLDER`, by the words that it stands for.

    Other words win over what was recognized.

    Args:
        job: name of the job; words that it does not read are left out.
        words: `key=value` words as typed.
        quote_commas: quote values with commas, which in a sweep would be lists.

    Raises:
        UserError: it is not known what lies there, or the job trains or evaluates nothing.
    """
    typed = dict(word.partition("=")[::2] for word in words)
    is_auto = typed.get("dataset") == "auto"
    if not is_auto and DATA not in typed:
        return WrittenOut(words, None)
    place = typed.get("dataset.path") if is_auto else typed[DATA]
    hidden = {DATA, "dataset", "dataset.path"} if is_auto else {DATA}
    _check(job, typed, place)
    assert place
    from finetune.data.recognition.recognize import recognize

    given = {key: value for key, value in typed.items() if key not in hidden}
    prefix = "dataset.columns."
    columns = {key.removeprefix(prefix): value for key, value in given.items() if key.startswith(prefix)}
    try:
        recognition = recognize(place, given.get("dataset"), columns)
    except UserError:
        if "dataset.train" not in given:
            raise
        # Files that were named are clear, even where the folder has others that may be meant.
        recognition = recognize(given["dataset.train"], given.get("dataset"), columns)
    new = _leave_out(_spell(recognition, given, name_run(place, job), job), given)
    new = {key: _quote(value, quote_commas) for key, value in new.items() if has_option(job, key)}
    kept = [word for word in words if word.partition("=")[0] not in hidden]
    written = [*(f"{key}={value}" for key, value in new.items()), *kept]
    command = shlex.join(["python", "-m", "finetune", job, *(["-m"] if quote_commas else []), *written])
    return WrittenOut(written, f"{_describe(place, recognition)}\n  {command}")


def _check(job: str, typed: Mapping[str, str], place: str | None) -> None:
    if not has_option(job, "dataset"):
        readers = ", ".join(f"`{name}`" for name in JOBS if has_option(name, "dataset"))
        raise UserError(f"{DATA}= has no effect on `{job}`. It is an option of {readers}. Leave it out.")
    if "run" in typed:
        raise UserError(
            f"{DATA}= with run=FOLDER has no effect: the run names its own data. To score it on other "
            "data of the same format: dataset.validation=FILE."
        )
    if not place:
        raise UserError(f"{DATA}= is empty. Expected a folder or a file, such as {DATA}=mine/export.")


def name_run(place: str, job: str) -> str:
    """Return the name of a run's folder for a folder or file of data."""
    path = Path(place)
    named = path.parent if any(mark in path.name for mark in "*?[") else path
    if named.name in {"", ".", ".."}:
        named = named.resolve()
    words = set(re.findall(r"[a-z]+", named.stem.lower()))
    is_split = path.is_file() and words & {"train", "training", "annotations", "data", "metadata"}
    stem = named.absolute().parent.name if is_split else named.name if path.is_dir() else named.stem
    name = re.sub(r"[^\w.+-]+", "_", stem).strip("._") or "data"
    return f"{name[:80]}_evaluate" if job == "evaluate" else name[:80]


def _spell(
    recognition: "Recognition", given: Mapping[str, str], run_name: str, job: str
) -> Iterator[tuple[str, str]]:
    """Yield key and value of each word that was recognized."""
    kind = recognition.purpose.kind.name
    recipe = _RECIPE_OF_TASK.get(given.get("task", ""), "text_qlora") if "task" in given else RECIPES[kind]
    yield "recipe", recipe
    yield "dataset", recognition.dataset
    splits = {**recognition.splits}
    # An export with another split alone can still be trained on.
    train = splits.pop("train", None) or next(iter(splits.values()))
    yield "dataset.train", train
    if "validation" in splits:
        yield "dataset.validation", splits["validation"]
    else:
        yield "dataset.validation_fraction", _HELD_OUT
    if "test" in splits and splits["test"] != train:
        yield "dataset.test", splits["test"]
    for key, value in recognition.purpose.options.items():
        yield f"dataset.{key}", value
    if "recipe" not in given and "task" not in given:
        for key, value in {**_MORE.get(kind, {}), **recognition.purpose.task}.items():
            yield key, value
        if kind == "segmentation" and given.get("model") == "tiny":
            # The tiny model is for trying files out without a network.
            yield "task.mask_vae", "own"
    yield "run_name", run_name
    if job == "preview":
        yield "out", f"previews/{run_name}"


def _leave_out(new: Iterator[tuple[str, str]], given: Mapping[str, str]) -> dict[str, str]:
    """Return the words whose options were not typed."""
    rivals = {
        "dataset.validation": "dataset.validation_fraction",
        "dataset.validation_fraction": "dataset.validation",
    }
    typed = {*given, *(rivals[key] for key, value in given.items() if key in rivals and value != "null")}
    return {key: value for key, value in new if key not in typed}


def _quote(value: str, quote_commas: bool) -> str:
    """Return a value that is taken literally."""
    is_list = quote_commas and "," in value
    if is_list or value == "null" or re.fullmatch(r"""(["']).*\1""", value, re.DOTALL):
        escaped = value.replace("'", "\\'")
        return f"'{escaped}'"
    return value


def _describe(place: str, recognition: "Recognition") -> str:
    """Return what was recognized."""
    names = [split for split in ("train", "validation", "test") if split in recognition.splits]
    splits = " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
    return (
        f"{place}: {recognition.purpose.kind.value}, dataset={recognition.dataset}, with {splits}. "
        "The same, written out:"
    )


def describe_choices(composed: DictConfig, choices: Mapping[str, str]) -> str:
    """Return a line with task, prompt, metric and lengths of a composed config."""
    task, evaluation = composed.task, composed.evaluation
    parts = [f"task {choices.get('task')}"]
    if OmegaConf.is_dict(task) and task.get("prompt") is not None:
        parts.append(f"prompt {task.prompt!r}")
    best = evaluation.metric_for_best_model
    parts.append(f"metric {choices.get('metric')}" + (f", best step by {best}" if best else ""))
    longest = evaluation.max_new_tokens or "as many as the longest reference and a quarter more"
    parts.append(f"at most {composed.collator.max_text_length} text tokens; answers: {longest}")
    return "; ".join(parts)
