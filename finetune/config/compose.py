"""Where the YAML lives, and how it becomes one checked `RunConfig`.

`conf/` and `recipes/` are inside an installed package, and next to it in a checkout. Hydra names a group
after its folder, so a config source maps `recipe=NAME` to `recipes/NAME.yaml`.
"""

import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf, open_dict

from finetune.config.choices import GROUP_SCHEMAS, build_node
from finetune.config.job import Job
from finetune.config.jobs import JOBS, own_options
from finetune.config.recipe_file import load_recipe
from finetune.config.schema import RunConfig
from finetune.data.options import GROUP_OF_PART
from finetune.errors import UserError

_PACKAGE = Path(__file__).resolve().parent.parent
_HOME = _PACKAGE if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent
CONF_DIR = _HOME / "conf"
RECIPES_DIR = _HOME / "recipes"

_own_recipes: dict[str, Path] = {}
"""Made-up name -> recipe file of the user. Hydra would read a file or folder named `2024` as a number."""


_job: list[type[Job]] = [JOBS["train"]]
"""The job to compose for. A global: Hydra creates `RecipeSource` and passes it only a path."""
_replaces_metrics = [False]
"""Whether the command line gives `metrics`, which then are not those of a recipe."""
_chosen_groups: set[str] = set()
"""Groups that the command line chooses; the values of a run's `config.yaml` would hide the choice."""
_PRESETS = ("augmentation", "collator", "evaluation", "freeze", "peft", "trainer")
_other_options = {name for job in JOBS for name in own_options(job)}


class RecipeSource(ConfigSource):
    """`recipes://FOLDER`: the files of a folder as the group `recipe`, and the files given by path."""

    @staticmethod
    def scheme() -> str:
        """Return the prefix of this source in Hydra's search path."""
        return "recipes"

    def _file(self, config_path: str) -> Path | None:
        group, _, name = config_path.removesuffix(".yaml").partition("/")
        if group != "recipe" or not name:
            return None
        file = _own_recipes.get(name) or Path(self.path) / f"{name}.yaml"
        return file if file.is_file() else None

    def available(self) -> bool:
        """Whether the folder exists."""
        return Path(self.path).is_dir()

    def is_group(self, config_path: str) -> bool:
        """Whether Hydra asks for the group itself."""
        return config_path == "recipe"

    def is_config(self, config_path: str) -> bool:
        """Whether the recipe exists."""
        return self._file(config_path) is not None

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a recipe; it applies to the whole config, whatever package its header names.

        Raises:
            ConfigLoadError: the recipe does not exist.
        """
        file = self._file(config_path)
        if file is None:
            raise ConfigLoadError(f"No recipe {config_path}")
        config = load_recipe(file)
        if "image" in config and config.image is None:
            del config.image  # an option of `predict`, before `image.resize` existed
        # A recipe may contain another job's options: the output of `--cfg job` does.
        for name in _other_options - {field.name for field in fields(_job[0])}:
            config.pop(name, None)
        if {field.name for field in fields(RunConfig)} <= config.keys():
            for group in _chosen_groups:
                config.pop(group, None)
                kept = [entry for entry in config.get("defaults", []) if f"@{group}." not in str(entry)]
                config.defaults = kept
        if _replaces_metrics[0]:
            config.pop("metrics", None)
            kept = [entry for entry in config.get("defaults", []) if "/metric@metrics." not in str(entry)]
            config.defaults = kept
        return ConfigResult(
            provider=self.provider,
            path=self.full_path(),
            config=config,
            header={"package": "_global_"},
        )

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Return the names in the group, for Hydra's messages and shell completion."""
        if config_path == "recipe" and results_filter in (None, ObjectType.CONFIG):
            return sorted([*known_recipes(), *_own_recipes])
        return []


class RecipeSearchPath(SearchPathPlugin):
    """Adds the recipes' folder to Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folder."""
        search_path.append("finetune-recipes", f"recipes://{RECIPES_DIR}")


def register(job: str, overrides: Sequence[str]) -> None:
    """Register a job's schema and the recipes with Hydra; may be called repeatedly, for different jobs."""
    Plugins.instance().register(RecipeSource)
    Plugins.instance().register(RecipeSearchPath)
    OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)
    _job[0] = JOBS[job]
    _replaces_metrics[0] = any(word.startswith(("+metric@metrics.", "metrics=")) for word in overrides)
    _chosen_groups.clear()
    for word in overrides:
        group, _, choice = word.partition("=")
        # A path of a checkpoint keeps the other options of the model.
        if (CONF_DIR / group).is_dir() and (group, choice) != ("model", "own"):
            _chosen_groups.add(group)
    store = ConfigStore.instance()
    store.store(name="schema", node=JOBS[job])
    for group, choices in GROUP_SCHEMAS.items():
        for name, schema in choices.items():
            # In Hydra a file hides a schema of its name; the files of `dataset` inherit from it instead.
            has_file = (CONF_DIR / group / f"{name}.yaml").is_file()
            store.store(group=group, name=f"{name}_schema" if has_file else name, node=build_node(schema))


def sweep_name(run_name: str | None, recipe: str | None) -> str:
    """Return the name of a sweep's folder.

    Args:
        run_name: the one that was given, if any.
        recipe: the choice of the group `recipe`, if any.
    """
    return f"{recipe_label(recipe) or 'recipes'}_sweep" if run_name is None else run_name


def known_recipes() -> dict[str, Path]:
    """Return every shipped recipe's name and file."""
    return {file.stem: file for file in sorted(RECIPES_DIR.glob("*.yaml"))}


def forget_own_recipes() -> None:
    """Clear the registry of `add_recipe`, so that each command line starts empty."""
    _own_recipes.clear()


def add_recipe(file: Path) -> str:
    """Register a file as a recipe.

    Returns:
        The name of the file in the group `recipe`.

    Raises:
        UserError: the file is not a recipe.
    """
    load_recipe(file)
    for choice, known in _own_recipes.items():
        if known == file:
            return choice
    choice = f"_file_{len(_own_recipes)}"
    _own_recipes[choice] = file
    return choice


def recipe_file(choice: str | None) -> Path | None:
    """Return the registered file of a choice of the group `recipe`; None for a shipped recipe."""
    return _own_recipes.get(choice or "")


def own_recipes() -> list[Path]:
    """Return the registered files."""
    return list(_own_recipes.values())


def recipe_label(choice: str | None) -> str | None:
    """Return a recipe's name for people: its own, its file's, or its run folder's."""
    file = recipe_file(choice)
    if file is None:
        return choice
    return file.absolute().parent.name if file.name == "config.yaml" else file.stem


def group_choices(group: str) -> list[str]:
    """Return the names of a group's choices: files, and classes that need none."""
    files = (file.stem for file in (CONF_DIR / group).glob("*.yaml"))
    return sorted({*files, *GROUP_SCHEMAS.get(group, ())})


def compose(overrides: list[str], job: str = "train") -> Job:
    """Compose a config as the command line does, without running anything, for tests and notebooks.

    Args:
        overrides: Hydra's `key=value` words, such as `recipe=quickstart`.
        job: the command.
    """
    composed, _ = compose_words(overrides, job)
    return to_options(composed)


def compose_words(overrides: list[str], job: str = "train") -> tuple[DictConfig, dict[str, str]]:
    """Compose a config.

    Args:
        overrides: `key=value` words in Hydra's grammar.
        job: the command.

    Returns:
        The config, and the chosen file of each group.

    Raises:
        UserError: a value is too long or too deeply nested for Python.
    """
    register(job, overrides)
    try:
        with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            composed = hydra.compose("config", overrides=overrides, return_hydra_config=True)
    except (ValueError, RecursionError) as error:
        # Python's own limits, on the digits of a number or the depth of a list.
        raise UserError(f"Cannot read the command line: {str(error).splitlines()[0]}.") from error
    choices = chosen(composed.hydra)
    with open_dict(composed):
        del composed["hydra"]
    return composed, choices


def chosen(settings: Any) -> dict[str, str]:
    """Return the chosen file of each group, from Hydra's settings."""
    choices = settings.runtime.choices
    return {str(group): choice for group, choice in choices.items() if choice is not None}


def prefer_command_line(composed: DictConfig, overrides: list[str]) -> None:
    """Let a validation file on the command line replace a recipe's share of train, and vice versa.

    Args:
        composed: the config; changed in place.
        overrides: the words that it was composed from.
    """
    given = {word.partition("=")[0].lstrip("+") for word in overrides if not word.endswith("=null")}
    rivals = ["validation", "validation_fraction"]
    if not OmegaConf.is_dict(composed.dataset) or not set(rivals) <= set(composed.dataset):
        return
    for name, rival in (rivals, rivals[::-1]):
        if f"dataset.{name}" in given and f"dataset.{rival}" not in given:
            # The default: a Hub dataset always names a split, which a share replaces.
            composed.dataset[rival] = getattr(OmegaConf.get_type(composed.dataset), rival, None)


def describe_kept(composed: DictConfig, overrides: list[str]) -> str | None:
    """Return which values of a recipe hide what a choice on the command line says; None if none does.

    Args:
        composed: the config.
        overrides: the words that it was composed from.
    """
    words = dict(word.lstrip("+").split("=", 1) for word in overrides if "=" in word)
    kept: list[str] = []
    for group in _PRESETS:
        preset = _load_preset(group, words.get(group, "").strip("'\""))  # the command line quotes texts
        values = cast(
            dict[str, Any], OmegaConf.to_container(composed[group], resolve=True, enum_to_str=True)
        )
        merged = cast(DictConfig, OmegaConf.merge(OmegaConf.create(values), preset))
        kept += [
            f"{group}.{key}={values[key]}"
            for key in map(str, preset)
            if merged[key] != values[key] and not any(word.startswith(f"{group}.{key}") for word in words)
        ]
    if not kept:
        return None
    return (
        f"the recipe's own values hide those of the chosen preset: {', '.join(kept)}; a word changes each"
    )


def _load_preset(group: str, choice: str) -> DictConfig:
    """Return what a choice of a group says, with those that it inherits from; nothing of no choice."""
    file = CONF_DIR / group / f"{choice}.yaml"
    preset = cast(DictConfig, OmegaConf.load(file) if file.is_file() else OmegaConf.create({}))
    parents = [name for name in preset.pop("defaults", []) if name != "_self_"]
    return cast(DictConfig, OmegaConf.merge(*(_load_preset(group, name) for name in parents), preset))


def to_options(config: DictConfig) -> Job:
    """Convert Hydra's config to the job's options, with every interpolation resolved."""
    return cast(Job, OmegaConf.to_object(config))


def write_recipe(composed: DictConfig, choices: dict[str, str]) -> str:
    """Return a composed config as the text of a recipe that composes to the same config.

    Options of one command (its name, `resume`, `overwrite`, ...) are left out.

    Args:
        composed: the config as Hydra composed it.
        choices: the chosen file of each group.
    """
    values = OmegaConf.to_container(composed, resolve=True, enum_to_str=True)
    of_run = {field.name for field in fields(RunConfig)}
    values = {key: value for key, value in cast(dict[str, Any], values).items() if key in of_run}
    groups = sorted(group for group in choices if (CONF_DIR / group).is_dir())
    # In their own order: the order of parts decides which rows are drawn, that of metrics how fields that
    # two of them have are called.
    mixed = values["dataset"].get("parts", {}) if isinstance(values["dataset"], dict) else {}
    order = [
        f"{group}@dataset.parts.{name}.{key}" for name in mixed for key, group in GROUP_OF_PART.items()
    ]
    order += [f"metric@metrics.{name}" for name in values["metrics"]]
    added = [f"  - /{place}: {choices[place]}" for place in order if place in choices]
    overrides = [*added, *(f"  - override /{group}: {choices[group]}" for group in groups)]
    text = OmegaConf.to_yaml(OmegaConf.create(_escaped(values)))
    return "\n".join(["# @package _global_", "defaults:", *overrides, text])


def _escaped(value: Any) -> Any:
    """Return values with every `${` escaped: all interpolations were resolved before."""
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return escape_interpolation(value) if isinstance(value, str) else value


def escape_interpolation(text: str) -> str:
    r"""Write `${` as `\${`, which OmegaConf reads as plain text."""
    return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", text)
