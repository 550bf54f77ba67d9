"""The folder of a Space: this package, a run's result, and a program that shows the page of `demo`.

The package is copied as its source. A Space installs `requirements.txt` before it has any other file, so a
wheel next to it could not be named there.
"""

import json
import logging
import platform
import re
import shutil
import tomllib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from omegaconf import DictConfig, OmegaConf
from packaging.requirements import Requirement

from finetune.config.compose import CONF_DIR, RECIPES_DIR
from finetune.config.publishing import Demo
from finetune.config.recipe_file import load_recipe
from finetune.errors import UserError
from finetune.report.page import render
from finetune.run.files import write_json, write_text
from finetune.run.folder import RunFolder
from finetune.run.out_folder import OutFolder
from finetune.run.results import read_metrics
from finetune.web.view import name_model

log = logging.getLogger(__name__)

_DISTRIBUTION = "finetune-paligemma"
_PACKAGE = Path(__file__).resolve().parents[1]
_TINY = "tiny"
_LEFT_OUT = ("__pycache__", "*.pyc", ".*")
_KEPT = ("final", "intervals", "result", "dataset")
"""What the page and the check of the weights read of `metrics.json`."""
_WEIGHTS = ("*.safetensors", "*.json", "*.jinja")


def export_space(options: Demo, folder: RunFolder) -> Path:
    """Write the folder of a Space.

    Args:
        options: name the run, the folder to write, and where the weights are if they are not copied.
        folder: of the run, which is finished.

    Raises:
        UserError: the folder may not be written, or the Space could not find the base or the weights.
    """
    out = OutFolder(Path(options.export or ""), "demo", "export")
    out.check(overwrite=options.overwrite)
    weights = folder.adapter if folder.adapter.is_dir() else folder.model
    check_repo(options.repo)
    if weights == folder.adapter:
        _check_base(options)
    recipe = clean_recipe(load_recipe(folder.config))
    requirements = pin_requirements()
    with out.writing(overwrite=options.overwrite) as partial:
        _copy_package(partial / "finetune", with_tiny=options.model.path == _TINY)
        run = partial / "run"
        run.mkdir()
        write_text(run / "config.yaml", f"# @package _global_\n{OmegaConf.to_yaml(recipe)}")
        metrics = read_metrics(folder)
        write_json(run / "metrics.json", {name: metrics[name] for name in _KEPT if name in metrics})
        if folder.mask_vae.is_file():
            shutil.copy(folder.mask_vae, run)
        if options.repo is None:
            shutil.copytree(weights, run / weights.name, ignore=shutil.ignore_patterns("README.md"))
        names = {"repo": options.repo, "weights": weights.name, "patterns": list(_WEIGHTS)}
        write_text(
            partial / "app.py", render("space_app.py.md.j2", **{k: json.dumps(v) for k, v in names.items()})
        )
        write_text(partial / "requirements.txt", "\n".join(requirements) + "\n")
        write_text(partial / "README.md", _write_card(options))
    return out.root


def check_repo(repo: str | None) -> None:
    """Refuse a name that is not that of a repository.

    Raises:
        UserError: it is not `USER/NAME`.
    """
    if repo is None:
        return
    try:
        validate_repo_id(repo)
        is_name = repo.count("/") == 1
    except HFValidationError:
        is_name = False
    if not is_name:
        raise UserError(
            f"repo={repo}: expected USER/NAME, the repository of the adapter or model on the Hub."
        )


def _check_base(options: Demo) -> None:
    """Refuse a base that a Space could not load.

    Raises:
        UserError: the base is a folder of this machine.
    """
    path = options.model.path
    if path != _TINY and (Path(path).exists() or path.count("/") != 1):
        raise UserError(
            f"The base of the run is a folder of this machine, {path}, which a Space cannot load. Merge "
            "adapter and base, and publish that, or train from the base's Hub id."
        )


def clean_recipe(recipe: DictConfig) -> DictConfig:
    """Return a run's settings without paths of this machine: of a path only its last name is kept."""
    values = OmegaConf.to_container(recipe)
    assert isinstance(values, dict)
    values["adapter"] = None  # the one that the training continued
    for name in ("tracker", "published", "report"):
        values.pop(name, None)
    cleaned = {name: value if name == "model" else _clean(value) for name, value in values.items()}
    for name in ("dataset", "task", "metric"):
        target = (cleaned.get(name) or {}).get("_target_")
        if target is not None:
            log.warning("warning: put the module of %s next to the app.py of the Space", target)
    made = OmegaConf.create(cleaned)
    assert isinstance(made, DictConfig)
    return made


def _clean(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _clean(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, str) and (
        value.startswith(("/", "~", "./", "../")) or re.match(r"[A-Za-z]:[\\/]", value)
    ):
        return re.split(r"[\\/]", value.rstrip("\\/"))[-1]
    return value


def pin_requirements() -> list[str]:
    """Return what the package needs, each at the version that is installed here.

    Raises:
        UserError: it is not known, because the package is not installed.
    """
    project = _PACKAGE.parent / "pyproject.toml"
    try:
        # A checkout may be newer than what was recorded when it was installed.
        required = (
            tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
            if CONF_DIR.parent == _PACKAGE.parent and project.is_file()
            else metadata.requires(_DISTRIBUTION) or []
        )
        needed = [Requirement(one) for one in required]
        names = sorted(
            one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})
        )
        # Of torch without the build, such as +cpu, which the registry does not have.
        return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in names]
    except metadata.PackageNotFoundError as error:
        raise UserError(
            f"The versions to pin are not known: {error}. Install it: pip install -e ."
        ) from error


def _copy_package(target: Path, with_tiny: bool) -> None:
    """Copy the source of this package, as a wheel has it."""
    left_out = _LEFT_OUT if with_tiny else (*_LEFT_OUT, "assets")
    shutil.copytree(_PACKAGE, target, ignore=shutil.ignore_patterns(*left_out))
    for folder in (CONF_DIR, RECIPES_DIR):
        shutil.copytree(
            folder, target / folder.name, ignore=shutil.ignore_patterns(*_LEFT_OUT), dirs_exist_ok=True
        )


def _write_card(options: Demo) -> str:
    is_tiny = options.model.path == _TINY
    is_public = not is_tiny and not Path(options.model.path).exists()
    head: dict[str, Any] = {
        "title": name_model(options),
        "sdk": "gradio",
        "sdk_version": metadata.version("gradio"),
        "python_version": ".".join(platform.python_version_tuple()[:2]),
        "app_file": "app.py",
        "models": [name for name in (options.model.path if is_public else None, options.repo) if name],
        "license": "apache-2.0" if is_tiny else "gemma",
        "pinned": False,
    }
    text = yaml.safe_dump(head, sort_keys=False, allow_unicode=True)
    return render("space_readme.md.j2", head=text, **head, gated=is_public, repo=options.repo)
