"""Where the YAML lives, and how it becomes one checked `RunConfig`.

`conf/` and `recipes/` lie inside an installed package and beside it in a checkout. Hydra names a group
after its folder, so `recipe=NAME` needs a source of its own to find `recipes/NAME.yaml`.
"""

from pathlib import Path
from typing import Any, cast

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from finetune.config.choices import GROUP_SCHEMAS
from finetune.config.schema import RunConfig

_PACKAGE = Path(__file__).resolve().parent.parent
_HOME = _PACKAGE if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent
CONF_DIR = _HOME / "conf"
RECIPES_DIR = _HOME / "recipes"

_own_recipes: dict[str, Path] = {}


class RecipeSource(ConfigSource):
    """`recipes://FOLDER`: the files of a folder as the group `recipe`, and single files of the user's."""

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
        """Whether the folder is there."""
        return Path(self.path).is_dir()

    def is_group(self, config_path: str) -> bool:
        """Whether Hydra asks for the group itself."""
        return config_path == "recipe"

    def is_config(self, config_path: str) -> bool:
        """Whether there is such a recipe."""
        return self._file(config_path) is not None

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a recipe; whatever its header says, it speaks of the whole config.

        Raises:
            ConfigLoadError: there is no such recipe.
        """
        file = self._file(config_path)
        if file is None:
            raise ConfigLoadError(f"No recipe {config_path}")
        return ConfigResult(
            provider=self.provider,
            path=self.full_path(),
            config=cast(DictConfig, OmegaConf.load(file)),
            header={"package": "_global_"},
        )

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Names in the group, for Hydra's own messages and shell completion."""
        if config_path == "recipe" and results_filter in (None, ObjectType.CONFIG):
            return sorted(known_recipes())
        return []


class RecipeSearchPath(SearchPathPlugin):
    """Adds the recipes' folder to what Hydra searches."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folder."""
        search_path.append("finetune-recipes", f"recipes://{RECIPES_DIR}")


def register() -> None:
    """Tell Hydra of the schema and of the recipes; may be called again."""
    Plugins.instance().register(RecipeSource)
    Plugins.instance().register(RecipeSearchPath)
    OmegaConf.register_new_resolver("sweep_name", _sweep_name, replace=True)
    store = ConfigStore.instance()
    store.store(name="schema", node=RunConfig)
    for group, choices in GROUP_SCHEMAS.items():
        for name, schema in choices.items():
            node = OmegaConf.structured(schema)
            _open_dictionaries(node)
            store.store(group=group, name=f"{name}_schema", node=node)


def _open_dictionaries(node: DictConfig) -> None:
    """Allow new keys under options such as `dataset.columns`, so that they need no `+`."""
    for key in node:
        value = None if OmegaConf.is_missing(node, key) else node[key]
        if isinstance(value, DictConfig):
            if OmegaConf.get_type(value) is dict:
                OmegaConf.set_struct(value, False)
            _open_dictionaries(value)


def _sweep_name(run_name: str | None, recipe: str | None) -> str:
    return run_name or f"{recipe or 'recipes'}_sweep"


def known_recipes() -> dict[str, Path]:
    """Return every recipe's name and file."""
    return {file.stem: file for file in sorted(RECIPES_DIR.glob("*.yaml"))} | _own_recipes


def forget_own_recipes() -> None:
    """Forget the files that `add_recipe` made known: each command line begins without."""
    _own_recipes.clear()


def add_recipe(file: Path) -> str:
    """Make a file of the user's own known as a recipe, and return its name."""
    name = file.parent.name if file.name == "config.yaml" else file.stem
    _own_recipes[name] = file
    return name


def group_choices(group: str) -> list[str]:
    """Return the names of a group's files."""
    return sorted(file.stem for file in (CONF_DIR / group).glob("*.yaml"))


def compose(overrides: list[str]) -> RunConfig:
    """Compose a config without running anything; what the command line does, for tests and notebooks.

    Args:
        overrides: Hydra's `key=value` words, such as `recipe=quickstart`.
    """
    import hydra

    register()
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return to_run_config(hydra.compose("config", overrides=overrides))


def to_run_config(config: DictConfig) -> RunConfig:
    """Turn Hydra's config into plain dataclasses, every interpolation resolved."""
    return cast(RunConfig, OmegaConf.to_object(config))


def write_recipe(composed: DictConfig, choices: dict[str, str]) -> str:
    """Write a composed config as a recipe that composes to the same again.

    What belongs to one command alone (its name, `resume`, `overwrite`, ...) is left out.

    Args:
        composed: the config as Hydra composed it.
        choices: chosen file of each group.
    """
    values = OmegaConf.to_container(composed, resolve=True, enum_to_str=True)
    for key in ("run_name", "resume", "overwrite", "run", "adapter", "predictions"):
        cast(dict[str, Any], values).pop(key)
    groups = sorted(group for group in choices if (CONF_DIR / group).is_dir())
    overrides = [f"  - override /{group}: {choices[group]}" for group in groups]
    text = OmegaConf.to_yaml(OmegaConf.create(cast(dict[str, Any], values)))
    return "\n".join(["# @package _global_", "defaults:", *overrides, text])
