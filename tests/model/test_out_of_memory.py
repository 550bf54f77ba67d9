from collections.abc import Callable

import pytest
import torch

from finetune.model.out_of_memory import is_out_of_memory


@pytest.mark.parametrize(
    "allocate",
    [
        pytest.param(lambda: torch.empty(2**60, dtype=torch.uint8), id="torch"),
        pytest.param(lambda: bytearray(2**60), id="python"),
    ],
)
def test_an_allocation_that_fails_is_recognized(allocate: Callable[[], object]) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as failed:
        allocate()
    assert is_out_of_memory(failed.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_of_a_gpu_are_told_from_others(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
