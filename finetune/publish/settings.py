"""The data and the training of a run as its card lists them, without anything of the machine's folders."""

import math
import re
from collections.abc import Sequence
from typing import Any

from finetune.publish.facts import RunFacts, last_name

_ABSOLUTE = re.compile(r"(?:~|[A-Za-z]:)?[\\/]|\.\.[\\/]")
_INSIDE = re.compile(r"(?<![^\s,=\[{('\"])(?:~|[A-Za-z]:)?[\\/](?:[^\s,\]})'\"]*[\\/])?")
_TEXTS = re.compile(r"(task\.(prompt|labels|choice|separator|suffix|answers)|prefix|data\.prompt)\b")
"""Options whose values are texts: a slash in them is no folder."""


def hide_paths(words: Sequence[str]) -> list[str]:
    """Return the words of a command with the last names of absolute paths, such as `dataset.train=a.jsonl`.

    Args:
        words: of a command line.
    """
    return [_hide(word) for word in words]


def _hide(word: str) -> str:
    key, equals, value = word.rpartition("=") if word.count("=") == 1 else word.partition("=")
    if not equals:
        return last_name(word) if _ABSOLUTE.match(word) else word
    if _TEXTS.match(key.lstrip("+~")):
        return word
    if _ABSOLUTE.match(value) and not set(",[") & set(value):
        return f"{key}={last_name(value)}"
    return f"{key}={_INSIDE.sub('', value)}"


def describe_data(facts: RunFacts) -> dict[str, str]:
    """Return what a card says of the data: the source, and the rows of each split."""
    about: dict[str, Any] = {"source": _name_source(facts), "validation split": None}
    for split, rows in facts.data.items():
        count = "" if rows.rows is None else f"{rows.rows:,} rows"
        about[f"{split} split"] = ", ".join(text for text in (count, rows.digest) if text)
    return {name: value for name, value in about.items() if value}


def _name_source(facts: RunFacts) -> str:
    choice = facts.choices.get("dataset")
    parts = facts.setting("dataset.parts")
    names = list(facts.dataset_ids)
    if isinstance(parts, dict):
        names += [f"part {name}" for name in parts]
    elif not names and facts.dataset is not None:
        names = [last_name(facts.dataset)]
    details = ", ".join(name for name in names if name != choice)
    return " ".join(text for text in (choice, f"({details})" if details else "") if text)


def describe_training(facts: RunFacts) -> dict[str, str]:
    """Return what a card says of the training: the settings that matter, the hardware and the versions."""
    setting, train = facts.setting, facts.metrics.get("train") or {}
    towers = facts.metrics.get("parameters") or {}
    learning = sum(int(counts.get("learning", 0)) for counts in towers.values())
    half = "float16" if setting("trainer.fp16") else "bfloat16" if setting("trainer.bf16") else None
    about = {
        "recipe": facts.recipe,
        "method": _describe_method(facts),
        "learning parameters": f"{learning:,}" if learning else None,
        "frozen": ", ".join(_list_frozen(facts)),
        "images": f"{facts.resolution} x {facts.resolution} pixels, resized {setting('image.resize')}",
        "steps": _describe_steps(facts, train),
        "learning rate": f"{setting('trainer.learning_rate')}, {setting('trainer.lr_scheduler_type')}",
        "formats": f"base {setting('model.dtype')}, learning weights {setting('model.learning_dtype')}, "
        f"products {half or 'in the format of the weights'}",
        "seed": setting("seed"),
        "result": (facts.metrics.get("result") or {}).get("why"),
        "hardware": _describe_hardware(facts),
        "seconds": train.get("seconds"),
        "peak memory": f"{train['peak_memory_gib']} GiB" if "peak_memory_gib" in train else None,
        "versions": _describe_versions(facts),
    }
    return {name: str(value) for name, value in about.items() if value not in (None, "")}


def _describe_method(facts: RunFacts) -> str:
    if not facts.targets:
        return facts.method
    rank, alpha = facts.setting("peft.r"), facts.setting("peft.lora_alpha")
    saved = facts.setting("peft.modules_to_save")
    also = f"; learning in full: {', '.join(saved)}" if saved else ""
    return f"{facts.method}, r {rank}, alpha {alpha:g}, on {', '.join(facts.targets)}{also}"


def _list_frozen(facts: RunFacts) -> list[str]:
    towers = ("vision_tower", "multi_modal_projector", "language_model")
    return [tower for tower in towers if facts.setting(f"freeze.{tower}") == "none"]


def _describe_steps(facts: RunFacts, train: Any) -> str | None:
    if "steps" not in train:
        return None
    batch = facts.setting("trainer.global_batch_size")
    if batch is None:
        factors = ("per_device_train_batch_size", "gradient_accumulation_steps")
        batch = math.prod(int(facts.setting(f"trainer.{name}") or 1) for name in factors)
        batch *= int(facts.environment.get("processes") or 1)
    return f"{train['steps']:,} with a batch of {batch}"


def _describe_hardware(facts: RunFacts) -> str | None:
    gpus = facts.environment.get("gpus")
    if gpus:
        # A run of one process uses one of the visible GPUs.
        count = min(len(gpus), int(facts.environment.get("processes") or 1))
        return f"{count} x {gpus[0]}"
    return None if gpus is None else f"CPU, {facts.environment.get('cpus')} cores"


def _describe_versions(facts: RunFacts) -> str | None:
    packages = facts.environment.get("packages") or {}
    versions = {"python": facts.environment.get("python"), **packages}
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version)
