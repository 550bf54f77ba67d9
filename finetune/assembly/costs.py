"""What a training has needed, next to what was estimated; and what to do where it was too much."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import PartialState

from finetune.assembly.estimate import RunEstimate, device_bytes
from finetune.assembly.fit import describe_fit
from finetune.model.peak import find_peak
from finetune.run.files import read_json, write_json
from finetune.run.folder import RunFolder
from finetune.training.callbacks import peak_memory_gib
from finetune.training.trainer import PaliGemmaTrainer

log = logging.getLogger(__name__)

_LESS = 0.85
"""A step that has failed needs more than was estimated: what is proposed needs so much less."""


class RunCosts:
    """Costs of a training, estimated before it begins: a mistake here must not come after days of it.

    Args:
        estimate: of the run, with the options that it takes.
        command: the words of the run.
    """

    def __init__(self, estimate: RunEstimate, command: Sequence[str] = ()) -> None:
        self.estimate, self.command = estimate, command
        self.memory = self.estimate.memory(every=self.estimate.checkpoint_every)
        self.useful, self.executed = self.estimate.operations()

    def advise(self) -> str:
        """Return the settings that fit into the memory of this device."""
        room = min(device_bytes(), self.memory.process + int(_LESS * self.memory.allocated))
        fit = describe_fit(self.estimate, room, command=self.command)
        return f"By the estimate, a step needs {self.memory.total / 2**30:.2f} GiB. The training {fit}"

    def compare(self, trainer: PaliGemmaTrainer) -> dict[str, Any]:
        """Return the training's memory and speed, measured and estimated.

        Args:
            trainer: after the training.
        """
        rate = trainer.examples_per_second  # before more time passes
        # torch counts its own tensors on a GPU, the system the whole process on a CPU.
        on_gpu = torch.cuda.is_available()
        predicted = self.memory.allocated if on_gpu else self.memory.total
        peak = find_peak(PartialState().device)
        share = rate / trainer.accelerator.num_processes / (peak.tflops * 1e12)
        return {
            "peak_memory_gib": round(peak_memory_gib(), 3),
            "predicted_peak_memory_gib": round(predicted / 2**30, 3),
            "process_memory_gib": round(0 if on_gpu else self.memory.process / 2**30, 3),
            "examples_per_second": round(rate, 3),
            "useful_tflop_per_example": round(self.useful / 1e12, 6),
            "executed_tflop_per_example": round(self.executed / 1e12, 6),
            "mfu": round(share * self.useful, 4),
            "hfu": round(share * self.executed, 4),
            "peak_tflops": round(peak.tflops, 3),
            "peak_of": peak.source,
        }


def record_costs(folder: RunFolder, costs: Mapping[str, Any]) -> None:
    """Write what the training has needed, next to what was predicted, into `environment.json`."""
    environment = read_json(folder.environment) if folder.environment.is_file() else {}
    write_json(folder.environment, {**environment, "training": dict(costs)})
    log.info("%s", describe_costs(costs))


def describe_costs(costs: Mapping[str, Any]) -> str:
    """Return the line of the log."""
    memory, predicted = costs["peak_memory_gib"], costs["predicted_peak_memory_gib"]
    process = costs["process_memory_gib"]
    before = f" ({process:.2f} before the model was loaded)" if process else ""
    return (
        f"peak memory {memory:.2f} GiB, predicted {predicted:.2f}{before}; steps alone "
        f"{costs['examples_per_second']:.4g} examples/s, MFU {costs['mfu']:.1%} of "
        f"{costs['peak_tflops']:.4g} TFLOP/s ({costs['peak_of']})"
    )
