"""What a finished run says of itself, read once from its folder.

Runs of older versions lack some of it: such a fact is None or empty, and nothing is guessed in its place.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from finetune.config.recipe_file import load_recipe
from finetune.errors import UserError
from finetune.publish.prompts import Prompt, count_images, list_prompts
from finetune.publish.scores import ScoredSet, list_scored
from finetune.run.files import read_json
from finetune.run.folder import RunFolder
from finetune.run.results import read_metrics

TINY = "tiny"
"""`model.path` of the base that is part of the package."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_GEMMA_2 = re.compile(r"paligemma-?2(?![\d])", re.IGNORECASE)
_CHOICE = re.compile(r"(?:override )?/(.+)")


class ResultKind(StrEnum):
    """What a run leaves."""

    adapter = "adapter"
    model = "model"


@dataclass(frozen=True)
class Base:
    """The model that was tuned."""

    path: str
    """As the run loaded it: Hub id, folder, or `tiny`."""
    hub_id: str | None = None
    """None: it is on no Hub, as far as the run knows."""
    revision: str | None = None
    """The commit, or the branch or tag that was asked for."""
    fingerprint: str | None = None
    """Of its weights."""

    @property
    def is_tiny(self) -> bool:
        """Whether it is the base that is part of the package."""
        return self.path == TINY

    @property
    def name(self) -> str:
        """Its Hub id; of a folder its last name, because the rest is about somebody's machine."""
        return self.hub_id or last_name(self.path)


@dataclass(frozen=True)
class SplitFacts:
    """The rows of a split."""

    rows: int | None = None
    digest: str | None = None


@dataclass(frozen=True)
class RunFacts:
    """A finished run."""

    name: str
    """Of its folder."""
    kind: ResultKind
    config: DictConfig
    """The content of its `config.yaml`."""
    base: Base
    backbone: str | None = None
    """`gemma` or `gemma2`."""
    resolution: int | None = None
    """Side of the images, pixels."""
    targets: tuple[str, ...] = ()
    """Layers with an adapter: the last parts of their names."""
    prompts: tuple[Prompt, ...] = ()
    """One for each task, so several for a mixture."""
    images: int = 1
    """Images in a prompt."""
    scored: tuple[ScoredSet, ...] = ()
    """What it was scored on, its validation split first."""
    data: Mapping[str, SplitFacts] = field(default_factory=dict)
    """Split -> its rows."""
    dataset: str | None = None
    """The validation split, as the run names it."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """The content of its `metrics.json`."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """The content of its `environment.json`."""

    def setting(self, key: str) -> Any:
        """Return a value of `config.yaml` by its dotted key; None if it is not there."""
        value = OmegaConf.select(self.config, key, throw_on_missing=False)
        return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value

    @property
    def command(self) -> list[str]:
        """The words that started the run; empty if they are not known."""
        words = self.environment.get("command", [])
        return [str(word) for word in words] if isinstance(words, list) else []

    @property
    def recipe(self) -> str | None:
        """The recipe that was named."""
        named = [word.partition("=")[2] for word in self.command if word.startswith("recipe=")]
        return last_name(named[-1]) if named else None

    @cached_property
    def choices(self) -> dict[str, str]:
        """Group -> the choice of the run, such as `peft` -> `qlora`."""
        entries = [entry for entry in self.setting("defaults") or [] if isinstance(entry, dict)]
        pairs = [(_CHOICE.fullmatch(str(key)), value) for entry in entries for key, value in entry.items()]
        return {match[1]: str(value) for match, value in pairs if match is not None}

    @property
    def method(self) -> str:
        """How it learned, such as `QLoRA`; `full fine-tuning` without an adapter."""
        if self.kind == ResultKind.model:
            return "full fine-tuning"
        kind = "DoRA" if self.setting("peft.use_dora") else "LoRA"
        kind = f"rs{kind}" if self.setting("peft.use_rslora") else kind
        bits = self.setting("peft.bits") or 16
        return f"Q{kind}" if bits == 4 else f"{kind} on {bits}-bit weights" if bits == 8 else kind

    @property
    def dataset_ids(self) -> list[str]:
        """The Hub ids of the data; empty for data that are not on the Hub."""
        sources = [self.setting("dataset")] if "parts" not in (self.setting("dataset") or {}) else [
            part.get("source") for part in self.setting("dataset.parts").values()
        ]  # fmt: skip
        return list(dict.fromkeys(name for source in sources if (name := _find_dataset(source))))


def last_name(path: str) -> str:
    """Return the last name of a path, of whatever system."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1] or path


def is_hub_id(path: str) -> bool:
    """Return whether a text is a Hub id and not a folder here."""
    return _HUB_ID.fullmatch(path) is not None and not Path(path).exists()


def read_facts(root: Path) -> RunFacts:
    """Read what a run's folder says.

    Args:
        root: the folder, such as `runs/quickstart`.

    Raises:
        UserError: it is not the folder of a run, the run is not finished, or a file of it cannot be read.
    """
    folder = RunFolder(root)
    kind = _find_result(folder)
    config = load_recipe(folder.config)
    metrics = read_metrics(folder)
    scored = list_scored(metrics)
    if not scored:
        raise UserError(f"{root} has no scores yet. Continue the run with resume=true.")
    environment = read_json(folder.environment) if folder.environment.is_file() else {}
    environment = environment if isinstance(environment, dict) else {}
    result = folder.adapter if kind == ResultKind.adapter else folder.model
    adapter = _read_object(result / "adapter_config.json")
    base = _find_base(config, environment, adapter)
    rows = folder.predictions / "validation.jsonl"
    return RunFacts(
        name=root.resolve().name,
        kind=kind,
        config=config,
        base=base,
        backbone=_find_backbone(base, metrics, _read_object(result / "config.json")),
        resolution=_find_resolution(config, result),
        targets=_list_targets(adapter),
        prompts=list_prompts(config, rows),
        images=count_images(rows),
        scored=scored,
        data=_read_data(metrics),
        dataset=metrics.get("dataset"),
        metrics=metrics,
        environment=environment,
    )


def _find_result(folder: RunFolder) -> ResultKind:
    """Return which of both folders a run has.

    Raises:
        UserError: it has neither, or is not a run.
    """
    root = folder.root
    if not folder.config.is_file():
        what = "is a file" if root.is_file() else "holds no run" if root.is_dir() else "is not there"
        raise UserError(f"{root} {what}. Expected the folder of a finished run, such as runs/quickstart.")
    if (folder.adapter / "adapter_config.json").is_file():
        return ResultKind.adapter
    if (folder.model / "config.json").is_file():
        return ResultKind.model
    raise UserError(
        f"{folder.root} is not finished: it has neither adapter/ nor model/. Continue it with resume=true."
    )


def _read_object(file: Path) -> dict[str, Any]:
    """Return a JSON object that the libraries wrote; empty without the file."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}). Restore it.") from error
    return value if isinstance(value, dict) else {}


def _find_base(config: DictConfig, environment: Mapping[str, Any], adapter: Mapping[str, Any]) -> Base:
    recorded = environment.get("base")
    recorded = recorded if isinstance(recorded, dict) else {}
    path = str(recorded.get("path") or OmegaConf.select(config, "model.path"))
    named = [OmegaConf.select(config, "model.hub_id"), path, adapter.get("base_model_name_or_path")]
    found = (name for name in named if isinstance(name, str) and is_hub_id(name))
    known = str(recorded.get("hub_id") or "")
    hub_id = known if _HUB_ID.fullmatch(known) else next(found, None)
    revisions = (
        recorded.get("commit"),
        recorded.get("revision"),
        OmegaConf.select(config, "model.revision"),
    )
    revision = next((text for text in revisions if text), None)
    return Base(path, None if path == TINY else hub_id, revision, recorded.get("fingerprint"))


def _find_backbone(base: Base, metrics: Mapping[str, Any], model: Mapping[str, Any]) -> str | None:
    """Return the kind of the language model; None if neither run, model nor name says it."""
    recorded = metrics.get("backbone") or model.get("text_config", {}).get("model_type")
    if recorded is None and base.is_tiny:
        return "gemma"
    return recorded or ("gemma2" if _GEMMA_2.search(base.name) else None)


def _find_resolution(config: DictConfig, result: Path) -> int | None:
    for name in ("processor_config.json", "preprocessor_config.json"):
        settings = _read_object(result / name)
        size = settings.get("image_processor", settings).get("size", {})
        if isinstance(size, dict) and isinstance(size.get("height"), int):
            return int(size["height"])
    return OmegaConf.select(config, "model.resolution")


def _list_targets(adapter: Mapping[str, Any]) -> tuple[str, ...]:
    names = adapter.get("target_modules")
    names = [names] if isinstance(names, str) else names or []
    return tuple(sorted({str(name).rpartition(".")[2] for name in names}))


def _read_data(metrics: Mapping[str, Any]) -> dict[str, SplitFacts]:
    """Return the rows of each split; the validation rows of an older run are those that were scored."""
    recorded = metrics.get("data")
    entries = recorded if isinstance(recorded, dict) else {}
    splits = {
        split: SplitFacts(entry.get("rows"), entry.get("digest"))
        for split, entry in entries.items()
        if isinstance(entry, dict)
    }
    for split, name in (("validation", "final"), ("test", "test")):
        count = (metrics.get(name) or {}).get("n")
        if split not in splits and count is not None:
            splits[split] = SplitFacts(count)
    return splits


def _find_dataset(source: Any) -> str | None:
    """Return the Hub id of a source; None for one that was read from files."""
    if not isinstance(source, dict) or source.get("root"):
        return None
    hub = source.get("hub")
    path = hub.get("path") if isinstance(hub, dict) else source.get("path")
    return path if isinstance(path, str) and is_hub_id(path) else None
