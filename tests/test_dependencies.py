"""What pyproject.toml asks for: everything that is imported, and no floor that was never run."""

import ast
import re
import sys
import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.conftest import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
TRACKERS = [line for name in ("tensorboard", "trackio", "wandb") for line in EXTRAS[name]]
REQUIRED = [Requirement(line) for line in (*PROJECT["dependencies"], *TRACKERS, *EXTRAS["dev"])]
WITHOUT_A_WHEEL = {"pycocoevalcap"}
"""Needs Java; the extra `ptb` brings it."""


def read_pins(name: str) -> dict[str, Version]:
    lines = (REPOSITORY / name).read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(package): Version(version) for package, version in pins}


def floor_of(requirement: Requirement) -> Version | None:
    floors = [part.version for part in requirement.specifier if part.operator == ">="]
    return Version(floors[0]) if floors else None


@pytest.mark.parametrize("requirement", REQUIRED, ids=str)
def test_a_floor_is_the_version_that_the_lowest_tests_install(requirement: Requirement) -> None:
    lowest = read_pins("constraints-lowest.txt")
    floor = floor_of(requirement)
    if floor is None:
        assert requirement.name in EXTRAS["dev"], "only a tool may have no floor"
    else:
        assert lowest[canonicalize_name(requirement.name)] == floor


@pytest.mark.parametrize("requirement", REQUIRED, ids=str)
def test_the_pinned_version_is_one_that_is_allowed(requirement: Requirement) -> None:
    pins = read_pins("constraints.txt")
    assert pins[canonicalize_name(requirement.name)] in requirement.specifier


def test_every_package_that_is_imported_is_asked_for() -> None:
    """Else it comes only as long as another package happens to bring it."""
    modules = set()
    for file in (REPOSITORY / "finetune").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules.add(str(node.module).partition(".")[0])
    foreign = modules - sys.stdlib_module_names - {"finetune"} - WITHOUT_A_WHEEL
    owners = metadata.packages_distributions()
    asked = {canonicalize_name(requirement.name) for requirement in REQUIRED}
    for module in foreign:
        # The distribution of a module that is not installed is assumed to have its name.
        assert {canonicalize_name(owner) for owner in owners.get(module, [module])} & asked, module


def test_the_lowest_python_is_the_one_that_the_lowest_tests_ask_for() -> None:
    (version,) = re.findall(
        r"sys.version_info\[:2\] != \((\d+, \d+)\)", (REPOSITORY / "Makefile").read_text()
    )
    assert PROJECT["requires-python"] == ">=" + version.replace(", ", ".")
