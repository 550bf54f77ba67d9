import pytest
import torch

from finetune.doctor import devices
from finetune.doctor.devices import check_4bit, check_bf16, check_communication, check_devices, draw_factors
from finetune.doctor.finding import Level

CPU = torch.device("cpu")


def test_this_machine_has_no_problem() -> None:
    findings = {finding.subject: finding for finding in check_devices()}
    device = devices.list_devices()[0]
    assert {"cpu", f"bf16 on {device}", f"4-bit on {device}", "nccl"} <= set(findings)
    assert not [finding for finding in findings.values() if finding.level == Level.problem]


def test_products_that_are_too_rough_for_bf16_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = draw_factors(CPU)
    assert (
        devices.relative_error(left.bfloat16() @ right.bfloat16(), left @ right) < devices._BF16_ERROR / 2
    )
    monkeypatch.setattr(devices, "_BF16_ERROR", 1e-4)
    finding = check_bf16(CPU)
    assert finding.level == Level.problem
    assert "model.dtype=float32" in finding.remedy


def test_a_layer_that_does_not_compute_its_own_weights_is_a_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bitsandbytes.nn.Linear4bit.forward", lambda self, inputs: torch.zeros_like(inputs))
    finding = check_4bit(CPU)
    assert finding.level == Level.problem
    assert "differs from its own weights" in finding.text


def test_a_missing_kernel_is_a_problem_with_the_way_round_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, inputs: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no kernel for this device")

    monkeypatch.setattr("bitsandbytes.nn.Linear4bit.forward", fail)
    finding = check_4bit(CPU)
    assert (finding.level, "no kernel for this device" in finding.text) == (Level.problem, True)
    assert "peft=lora" in finding.remedy


@pytest.mark.gpu
def test_all_gpus_sum_with_nccl() -> None:
    finding = check_communication(devices.list_devices())
    assert finding.level == Level.ok
