"""What a step of a run costs, from its options and the lengths of its data: memory and operations."""

import copy
import os
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import PaliGemmaConfig

from finetune.assembly.lengths import RowLengths
from finetune.assembly.model import freeze_and_adapt, half_dtype
from finetune.assembly.trainer import divide_run_batch
from finetune.config.schema import RunConfig
from finetune.model.adapter import TrainedAdapter
from finetune.model.flops import (
    ExampleSize,
    Execution,
    count_executed,
    count_useful,
    describe_learning,
)
from finetune.model.load import build_meta_model
from finetune.model.memory import MemoryEstimate, StepMemory, StepSettings, StepShape
from finetune.model.surgery import operate
from finetune.model.table import count_parameters
from finetune.model.towers import Tower
from finetune.processes import count_processes

CUDA_CONTEXT = 3 * 2**28
"""Bytes of a process on a GPU that are not torch's tensors: driver, kernels, the libraries' work space."""


class RunEstimate:
    """Estimates a run's memory and operations; nothing of it is loaded.

    Args:
        options: of the run.
        checkpoint: configuration of the checkpoint.
        lengths: of the training rows; None: as long as the options allow.
        adapter: whose training the run continues.
        on_gpu: whether the run is for a GPU, or for a CPU.
        process: bytes of the process itself.
    """

    def __init__(
        self,
        options: RunConfig,
        checkpoint: PaliGemmaConfig,
        lengths: RowLengths | None = None,
        *,
        adapter: TrainedAdapter | None = None,
        on_gpu: bool = True,
        process: int = CUDA_CONTEXT,
    ) -> None:
        self.options, self.processes = options, count_processes()
        self.lengths = _longest_allowed(options) if lengths is None else lengths
        self.checkpoint = copy.deepcopy(checkpoint)
        model, half = options.model, half_dtype(options.trainer)
        base = build_meta_model(self.checkpoint, getattr(torch, model.dtype))
        learner = freeze_and_adapt(base, model, options.freeze, options.peft, half, adapter)
        self.counts = count_parameters(learner, planned=options.peft)
        # Checkpointing is calculated: a layer that checkpoints itself cannot be counted.
        operate(learner, options.trainer.speed, llm_dropout=model.llm_dropout, autocast=half is not None)
        self._learning = describe_learning(learner)
        settings = StepSettings(options.trainer.optim, half, model.attention, on_gpu, process)
        self._memory = MemoryEstimate(learner, self.checkpoint, options.peft, settings)

    def with_checkpointing(self, options: RunConfig) -> "RunEstimate":
        """Return the estimate of the same run, with the layers that these options recompute."""
        other = copy.copy(self)
        other.options = options
        return other

    def with_lengths(self, lengths: RowLengths) -> "RunEstimate":
        """Return the estimate for other training rows."""
        other = copy.copy(self)
        other.lengths = lengths
        return other

    def for_gpu(self) -> "RunEstimate":
        """Return the estimate of the same run on a GPU, whether this machine has one or not."""
        other = copy.copy(self)
        other._memory = self._memory.with_settings(on_gpu=True, process=CUDA_CONTEXT)
        return other

    @property
    def device(self) -> str:
        """What the memory is that of."""
        return "GPU" if self._memory.settings.on_gpu else "CPU"

    @property
    def image_tokens(self) -> int:
        """Of one image."""
        vision = self.checkpoint.vision_config
        return int((vision.image_size // vision.patch_size) ** 2)

    @property
    def checkpoint_every(self) -> int | None:
        """The layers that the options recompute: every k-th, or none; see `speed.checkpoint_every`."""
        trainer = self.options.trainer
        every = trainer.speed.checkpoint_every
        return (every or 1) if trainer.activation_checkpointing or every else None

    def shape(self, examples: int | None = None) -> StepShape:
        """Return the largest forward pass of a training step.

        Args:
            examples: in place of the options'.
        """
        lengths = self.lengths
        if examples is None:
            examples, _ = divide_run_batch(self.options.trainer, self.processes)
        return StepShape(
            examples=examples,
            image_tokens=self.image_tokens * lengths.images,
            text_tokens=lengths.longest,
            supervised_tokens=lengths.longest_supervised,
            images=lengths.images,
            image_bytes=self._count_image_bytes(),
            supervised_mean=lengths.mean_supervised,
        )

    def memory(
        self, examples: int | None = None, every: int | None = None, *, alone: bool | None = None
    ) -> StepMemory:
        """Return the memory of a step at its peak.

        Args:
            examples: of a forward pass, in place of the options'.
            every: every k-th layer is recomputed; None: none is.
            alone: whether a step is one forward pass on one device; None: as the options say.
        """
        size, accumulation = divide_run_batch(self.options.trainer, self.processes)
        if alone is None:
            alone = (examples or size) >= size * accumulation and self.processes == 1
        return self._memory.estimate(self.shape(examples), every, accumulates=not alone)

    def _count_image_bytes(self) -> int:
        """Return the bytes of an image in a batch: pixels, or what the cache of features has of it."""
        vision, trainer = self.checkpoint.vision_config, self.options.trainer
        values = 3 * int(vision.image_size) ** 2
        pixels = values * (1 if trainer.speed.uint8_pixels else 4)
        if self._learning[Tower.vision_tower].flow > 0:
            # What the tower makes patches of, in the format of the product.
            return pixels + values * (half_dtype(trainer) or torch.float32).itemsize
        features = self.image_tokens * int(vision.hidden_size) * torch.bfloat16.itemsize
        return max(pixels, features) if trainer.speed.feature_cache is not False else pixels

    def operations(self) -> tuple[float, float]:
        """Return the useful and the executed operations of an example, in FLOP."""
        lengths = self.lengths
        size = ExampleSize(
            self.image_tokens,
            lengths.mean_images,
            prefix_tokens=lengths.mean - lengths.mean_supervised,
            suffix_tokens=lengths.mean_supervised / lengths.suffixes,
            suffixes=lengths.suffixes,
        )
        execution = Execution(self.options.trainer.speed.last_layer, self.checkpoint_every)
        useful = count_useful(self.checkpoint, self._learning, size)
        return useful, count_executed(self.checkpoint, self._learning, size, execution)


def estimate_here(
    options: RunConfig,
    checkpoint: PaliGemmaConfig,
    lengths: RowLengths | None = None,
    *,
    adapter: TrainedAdapter | None = None,
) -> RunEstimate:
    """Return the estimate of a run in this process; see `RunEstimate`."""
    on_gpu = PartialState().device.type == "cuda"
    process = CUDA_CONTEXT if on_gpu else resident_bytes()
    return RunEstimate(options, checkpoint, lengths, adapter=adapter, on_gpu=on_gpu, process=process)


def _longest_allowed(options: RunConfig) -> RowLengths:
    most = options.collator.max_text_length
    supervised = min(options.evaluation.max_new_tokens or most, most)
    return RowLengths(most, most, supervised, supervised)


def resident_bytes() -> int:
    """Return the memory of this process now; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def device_bytes() -> int:
    """Return the memory of the device that a run on this machine would use: its first GPU, or the CPU's."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
