from pathlib import Path

import pytest

from finetune.doctor.finding import Level
from finetune.doctor.packages import check_packages, compare_version, read_pins

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("installed", "level", "part"),
    [
        pytest.param("1.5", Level.ok, "1.5 (tested: 1.0 to 2.0)", id="inside"),
        pytest.param("2.0+cu130", Level.ok, "2.0+cu130", id="a-build-of-the-newest"),
        pytest.param("2.0.1", Level.note, "newer than the tested versions", id="newer"),
        pytest.param("0.9", Level.problem, "older than the tested versions", id="older"),
        pytest.param("1.0rc1", Level.problem, "older than the tested versions", id="before-the-lowest"),
        pytest.param(None, Level.problem, "is not installed", id="missing"),
    ],
)
def test_a_version_is_compared_with_the_tested_range(
    installed: str | None, level: Level, part: str
) -> None:
    finding = compare_version("torch", installed, "1.0", "2.0")
    assert finding.level == level
    assert part in finding.text
    assert bool(finding.remedy) == (level != Level.ok)


def test_every_dependency_is_checked_against_both_ends() -> None:
    findings = {finding.subject: finding for finding in check_packages()}
    assert {"python", "torch", "transformers", "peft", "bitsandbytes", "hydra-core"} <= set(findings)
    assert not any("?" in finding.text for finding in findings.values())


def test_the_tested_versions_are_those_of_the_constraints() -> None:
    pins = read_pins(REPOSITORY / "constraints.txt")
    assert pins["torch"] == "2.13.0"
    assert "pyyaml" in pins
