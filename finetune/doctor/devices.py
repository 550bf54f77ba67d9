"""The devices of this machine: memory, bfloat16, quantized layers, communication."""

import os
from collections.abc import Iterator
from time import perf_counter

import bitsandbytes as bnb
import torch
from torch import Tensor
from torch.nn.functional import linear

from finetune.doctor.finding import Finding, note, ok, problem

_SIDE = 512
"""Side of the matrices that are multiplied: large enough for every kernel, done in milliseconds."""

_BF16_ERROR = 2**-7
"""Relative error of a bfloat16 product with float32 sums: 8 bits of each factor, 2^-8 each way."""

_NF4_ERROR = 0.15
"""Relative error of NF4 weights drawn from a normal distribution, which is near 0.09."""


def list_devices() -> list[torch.device]:
    """Return the devices that a run on this machine would use: every GPU, or the CPU."""
    gpus = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return gpus or [torch.device("cpu")]


def check_devices() -> Iterator[Finding]:
    """Check memory, bfloat16 and 4-bit layers of each device, and that GPUs reach each other."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield ok("cpu", f"{len(os.sched_getaffinity(0))} cores, {memory / 2**30:.1f} GiB of memory")
    devices = list_devices()
    if devices[0].type == "cpu":
        yield note(
            "gpu",
            "none is seen by torch: training runs on the CPU, which suits model=tiny",
            "if there is one, install a build of torch for its driver; `nvidia-smi` shows the driver",
        )
    for device in devices:
        if device.type == "cuda":
            yield describe_gpu(device)
        yield check_bf16(device)
        yield check_4bit(device)
    yield check_communication(devices)


def describe_gpu(device: torch.device) -> Finding:
    """Return a GPU's name and memory; a problem if other programs use most of it."""
    free, total = (size / 2**30 for size in torch.cuda.mem_get_info(device))
    major, minor = torch.cuda.get_device_capability(device)
    name = torch.cuda.get_device_name(device)
    text = f"{name}, compute capability {major}.{minor}, {free:.1f} of {total:.1f} GiB free"
    if free < total / 2:
        return problem(str(device), text, "`nvidia-smi` lists the programs that use it")
    return ok(str(device), text)


def draw_factors(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return two random matrices, the same at every call: (side, side) float32 each."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(_SIDE, _SIDE, generator=generator) for _ in range(2))
    return left.to(device), right.to(device)


def relative_error(result: Tensor, expected: Tensor) -> float:
    """Return the error of a matrix, relative to the norm of the expected one."""
    return float((result.float() - expected).norm() / expected.norm())


def check_bf16(device: torch.device) -> Finding:
    """Multiply in bfloat16, the format of the frozen weights; compare result and time with float32."""
    left, right = draw_factors(device)
    expected = left @ right
    small, also_small = left.bfloat16(), right.bfloat16()
    error = relative_error(small @ also_small, expected)
    ratio = time_product(left, right) / time_product(small, also_small)
    text = f"relative error {error:.4f}, {ratio:.1f} times as fast as float32"
    if error > _BF16_ERROR:
        return problem(
            f"bf16 on {device}", text, "trainer.bf16=false model.dtype=float32; update the driver and torch"
        )
    if ratio < 1:
        return note(
            f"bf16 on {device}", text, "trainer.bf16=false model.dtype=float32 would be faster here"
        )
    return ok(f"bf16 on {device}", text)


def time_product(left: Tensor, right: Tensor) -> float:
    """Return the shortest of several times of one product, seconds."""
    times = []
    for _ in range(5):
        _synchronize(left.device)
        start = perf_counter()
        left @ right
        _synchronize(left.device)
        times.append(perf_counter() - start)
    return min(times)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def check_4bit(device: torch.device) -> Finding:
    """Store a layer in NF4, as QLoRA does, and compare what it computes with the layer before."""
    subject = f"4-bit on {device}"
    weight, inputs = draw_factors(device)
    expected = inputs @ weight.T
    layer = bnb.nn.Linear4bit(_SIDE, _SIDE, bias=False, compute_dtype=torch.float32, quant_type="nf4")
    layer.weight = bnb.nn.Params4bit(weight.cpu(), requires_grad=False, quant_type="nf4")
    remedy = "peft=lora needs no bitsandbytes; `python -m bitsandbytes` says what it misses"
    try:
        layer = layer.to(device)
        stored = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
        of_layer, of_stored = layer(inputs), linear(inputs, stored)
    except (RuntimeError, AttributeError, ImportError) as error:
        return problem(subject, f"bitsandbytes {bnb.__version__} fails: {error}", remedy)
    rounding, kernel = relative_error(of_layer, expected), relative_error(of_layer, of_stored)
    text = f"bitsandbytes {bnb.__version__}, NF4's relative error {rounding:.3f}"
    if rounding > _NF4_ERROR or kernel > _BF16_ERROR:
        return problem(subject, f"{text}; the kernel differs from its own weights by {kernel:.3f}", remedy)
    return ok(subject, text)


def check_communication(devices: list[torch.device]) -> Finding:
    """Sum a tensor over all GPUs with NCCL, as a step on several GPUs does."""
    if devices[0].type == "cpu":
        return ok("nccl", "not needed without GPUs; processes on CPUs use gloo")
    tensors = [torch.full((1024,), index + 1.0, device=device) for index, device in enumerate(devices)]
    expected = sum(range(1, len(devices) + 1))
    try:
        torch.cuda.nccl.all_reduce(tensors)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        return problem(
            "nccl", f"fails: {error}", "NCCL_DEBUG=INFO says why; NCCL_P2P_DISABLE=1 often helps"
        )
    version = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
    if any(bool((tensor != expected).any()) for tensor in tensors):
        return problem("nccl", f"{version} sums wrongly over {len(devices)} GPUs", "update the driver")
    return ok("nccl", f"{version} sums over {len(devices)} GPU{'s' if len(devices) > 1 else ''}")
