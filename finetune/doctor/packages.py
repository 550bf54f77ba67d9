"""The installed versions, compared with those that the tests have passed on."""

import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from finetune.doctor.finding import Finding, note, ok, problem

DISTRIBUTION = "finetune-paligemma"

_PACKAGE = Path(__file__).resolve().parent.parent
_HOME = _PACKAGE if (_PACKAGE / "constraints.txt").is_file() else _PACKAGE.parent
"""A wheel has the two files inside the package, a checkout next to it."""


def check_packages() -> Iterator[Finding]:
    """Compare Python and every required package with the tested range.

    The range goes from `constraints-lowest.txt` to `constraints.txt`: the full test suite passes at both.
    """
    yield ok("python", platform.python_version())
    lowest, newest = (read_pins(_HOME / name) for name in ("constraints-lowest.txt", "constraints.txt"))
    try:
        required = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        yield problem(DISTRIBUTION, "is run from its folder, but not installed", f"pip install -e {_HOME}")
        required = list(newest)
    names = [
        canonicalize_name(requirement.name)
        for requirement in map(Requirement, required)
        if requirement.marker is None or requirement.marker.evaluate()
    ]
    for name in names:
        yield compare_version(name, installed_version(name), lowest.get(name), newest.get(name))


def installed_version(name: str) -> str | None:
    """Return the version of an installed package; None if there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def compare_version(name: str, installed: str | None, lowest: str | None, newest: str | None) -> Finding:
    """Compare one version with the tested range; an unknown end is open."""
    remedy = f"pip install '{name}=={newest}'" if newest else f"pip install {name}"
    if installed is None:
        return problem(name, "is not installed", remedy)
    tested = f"tested: {lowest or '?'} to {newest or '?'}"
    if lowest is not None and Version(installed) < Version(lowest):
        return problem(name, f"{installed} is older than the tested versions ({tested})", remedy)
    # A local part, as in 2.13.0+cu130, names a build and not a later version.
    if newest is not None and Version(Version(installed).public) > Version(newest):
        return note(name, f"{installed} is newer than the tested versions ({tested})", remedy)
    return ok(name, f"{installed} ({tested})")


def read_pins(file: Path) -> dict[str, str]:
    """Return package -> version of a constraints file."""
    lines = [line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines()]
    pins = (line.partition(";")[0].strip().partition("==") for line in lines if "==" in line)
    return {canonicalize_name(name): version for name, _, version in pins}
