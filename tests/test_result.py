from pathlib import Path

import pytest

from finetune.example import RowFinding
from finetune.result import PreviewResult, group_findings


def test_findings_that_differ_in_names_and_numbers_are_of_a_kind_and_faults_come_first() -> None:
    reasons = [
        ("data/a.jsonl line 7: no image `cat 1.jpg` under /data", True),
        ("Row `x`: 3 of 9 images", False),
        ("other/b.jsonl line 12: no image `dog.jpg` under /data", True),
        ("b.jsonl line 9: its text 'a <pad>' is bad", True),
        ("Row `y y`: 5 of 9 images", False),
    ]
    findings = [RowFinding(reason, is_fault) for reason, is_fault in reasons]
    groups = [[finding.reason[:4] for finding in group] for group in group_findings(findings)]
    assert groups == [["data", "othe"], ["b.js"], ["Row ", "Row "]]


@pytest.mark.parametrize(
    ("is_fault", "validated", "code"), [(True, True, 1), (True, False, 0), (False, True, 0)]
)
def test_only_a_validation_with_faults_has_an_exit_code(is_fault: bool, validated: bool, code: int) -> None:
    findings = [RowFinding("x", is_fault)]
    assert PreviewResult(Path("x"), findings, 1, 1, 1.0, validated).exit_code == code
