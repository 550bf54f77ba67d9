"""How fast a device multiplies matrices: what its maker promises, or what it was measured to do."""

import time
from functools import cache
from typing import NamedTuple

import torch

_PROMISED = {
    "B200": 2250.0,
    "GH200": 989.0,
    "H200": 989.0,
    "H100 NVL": 835.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "H800": 989.0,
    "A100": 312.0,
    "A800": 312.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "A40": 150.0,
    "A30": 165.0,
    "A10G": 70.0,
    "A10": 125.0,
    "RTX 6000 Ada": 364.0,
    "RTX A6000": 155.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
    "V100": 125.0,
    "T4": 65.0,
}
"""Words of a GPU's name, in this order -> TFLOP/s in bfloat16, dense, with float32 sums; in float16 for
V100 and T4, which have no bfloat16. Source: NVIDIA's data sheets."""

_SECONDS = 0.5
_SIDE = {"cuda": 8192, "cpu": 1024}


class Peak(NamedTuple):
    """The rate that a device could reach at most."""

    tflops: float
    """10^12 operations a second."""
    source: str
    """Where it is from, to follow `of`."""


def find_peak(device: torch.device) -> Peak:
    """Return the promised rate of a known GPU, else the measured rate of a device."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for word, tflops in _PROMISED.items():
            if word.lower() in name.lower():
                return Peak(tflops, f"{name}'s data sheet")
    return measure_peak(device.type)


@cache
def measure_peak(kind: str) -> Peak:
    """Multiply large matrices in bfloat16 for about half a second, and return the fastest product."""
    device, side = torch.device(kind), _SIDE.get(kind, 1024)
    factors = [torch.randn(side, side, device=device).to(torch.bfloat16) for _ in range(2)]
    fastest, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < _SECONDS:
        start = time.perf_counter()
        torch.mm(*factors)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        fastest = min(fastest, time.perf_counter() - start)
    return Peak(2 * side**3 / fastest / 1e12, f"matrix products measured on this {kind.upper()}")
