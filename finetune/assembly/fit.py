"""Settings with which a run fits into a GPU, at the least cost of time."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from transformers import PaliGemmaConfig

from finetune.assembly.estimate import RunEstimate
from finetune.assembly.trainer import divide_run_batch
from finetune.config.schema import RunConfig
from finetune.model.memory import StepMemory
from finetune.model.options import PeftMethod
from finetune.model.published import published_config

_GAPS = 0.05
"""Share of a GPU's memory that its allocator loses between blocks of different sizes."""

_TOKENS = 1024
"""Of a forward pass: fewer leave a GPU idle between its kernels."""

_EVERY = (None, 4, 2, 1)
"""Layers that are recomputed, by what it costs: none, a fourth, half of them, all."""


class Proposal(NamedTuple):
    """Settings that fit."""

    words: list[str]
    """To be added to the command."""
    examples: int
    """Of a forward pass on a device."""
    accumulation: int
    """Forward passes of a step."""
    memory: StepMemory


def propose_fit(estimate: RunEstimate, available: int) -> Proposal | None:
    """Return the settings that fit into a memory; None if no batch does.

    The batch of a step stays as it is. Recomputing layers takes time, and so do forward passes of so few
    examples that a GPU is idle between its kernels: as few layers are recomputed as leave room for enough
    examples.

    Args:
        estimate: of the run.
        available: bytes of the device.
    """
    options = estimate.options
    size, accumulation = divide_run_batch(options.trainer, estimate.processes)
    whole = size * accumulation
    sizes = [size for size in range(1, whole + 1) if whole % size == 0]
    tokens = estimate.image_tokens * estimate.lengths.images + estimate.lengths.mean
    enough = next((size for size in sizes if size * tokens >= _TOKENS), whole)
    proposal = None
    if not fits(estimate.memory(1, 1), available):
        return None
    for every in _EVERY:
        most = _largest(estimate, sizes, every, available)
        if most is None:
            continue
        words = list(_list_words(options, most, whole, every))
        proposal = Proposal(words, most, whole // most, estimate.memory(most, every))
        if most >= enough:
            return proposal
    return proposal


def fits(memory: StepMemory, available: int) -> bool:
    """Return whether a step fits into the memory of a device."""
    return needed(memory) <= available


def needed(memory: StepMemory) -> float:
    """Return the bytes of a device that a step takes, with the gaps of its allocator."""
    return memory.process + memory.allocated * (1 + _GAPS)


def _largest(estimate: RunEstimate, sizes: list[int], every: int | None, available: int) -> int | None:
    """Return the largest batch that fits; the memory grows with it."""
    low, high = 0, len(sizes)
    while low < high:
        middle = (low + high) // 2
        if fits(estimate.memory(sizes[middle], every), available):
            low = middle + 1
        else:
            high = middle
    return sizes[low - 1] if low else None


def _list_words(options: RunConfig, size: int, whole: int, every: int | None) -> Iterator[str]:
    """Yield the words that make a run's settings those of a proposal; those that it has are left out."""
    trainer = options.trainer
    if size != trainer.per_device_train_batch_size:
        yield f"trainer.per_device_train_batch_size={size}"
    if trainer.global_batch_size is None and whole // size != trainer.gradient_accumulation_steps:
        yield f"trainer.gradient_accumulation_steps={whole // size}"
    is_on = every is not None
    if bool(trainer.activation_checkpointing) != is_on:
        yield f"trainer.activation_checkpointing={str(is_on).lower()}"
    if (every if every != 1 else trainer.speed.checkpoint_every and 1) != trainer.speed.checkpoint_every:
        yield f"trainer.speed.checkpoint_every={'null' if every is None else every}"


class Change(NamedTuple):
    """Another method or checkpoint."""

    words: list[str]
    options: RunConfig
    checkpoint: PaliGemmaConfig


def find_remedies(estimate: RunEstimate, available: int) -> tuple[list[Proposal], Proposal | None]:
    """Return what would fit where no batch of a run does.

    A fused optimizer, quantized weights, a lower resolution and a smaller model: each that is enough alone;
    where none is, all of them together.

    Returns:
        What fits, and what needs the least, whether it fits or not; None if that is the run itself.
    """
    run = Change([], estimate.options, estimate.checkpoint)
    alone = [step for change in _CHANGES if (step := change(run)) is not None]
    together = run
    for change in _CHANGES[1:]:
        together = change(together) or together
    fitting = list(filter(None, (_propose(step, estimate, available) for step in alone)))
    if not together.words:
        return fitting, None
    fitting = fitting or list(filter(None, [_propose(together, estimate, available)]))
    batch = math.prod(divide_run_batch(together.options.trainer, estimate.processes))
    words = [*together.words, *_list_words(together.options, 1, batch, 1)]
    return fitting, Proposal(words, 1, batch, _estimate(together, estimate).memory(1, 1))


def _estimate(change: Change, estimate: RunEstimate) -> RunEstimate:
    return RunEstimate(change.options, change.checkpoint, estimate.lengths)


def _propose(change: Change, estimate: RunEstimate, available: int) -> Proposal | None:
    proposal = propose_fit(_estimate(change, estimate), available)
    return proposal and proposal._replace(words=[*change.words, *proposal.words])


def _fuse(run: Change) -> Change | None:
    """Change to an optimizer that has no copy of the weights while it changes them."""
    name = "adamw_torch_fused"
    if run.options.trainer.optim != "adamw_torch":
        return None
    trainer = replace(run.options.trainer, optim=name)
    return Change(
        [*run.words, f"trainer.optim={name}"], replace(run.options, trainer=trainer), run.checkpoint
    )


def _quantize(run: Change) -> Change | None:
    """Change to LoRA on weights in NF4."""
    peft = run.options.peft
    if peft.bits == 4:
        return None
    changed = replace(peft, method=PeftMethod.lora, bits=4)
    return Change([*run.words, "peft=qlora"], replace(run.options, peft=changed), run.checkpoint)


def _lower(run: Change) -> Change | None:
    """Change to images of 224 pixels."""
    return _exchange(run, r"-(448|896)$", "-224")


def _shrink(run: Change) -> Change | None:
    """Change to the model of 3 billion parameters."""
    return _exchange(run, r"-(10b|28b)-", "-3b-")


def _exchange(run: Change, pattern: str, with_what: str) -> Change | None:
    path = re.sub(pattern, with_what, run.options.model.path)
    checkpoint = published_config(path)
    if checkpoint is None or path == run.options.model.path:
        return None
    side = checkpoint.vision_config.image_size
    words = [word for word in run.words if not word.startswith("model.")]
    words += [f"model.path={path}", f"model.resolution={side}"]
    model = replace(run.options.model, path=path, resolution=side)
    return Change(words, replace(run.options, model=model), checkpoint)


_CHANGES = (_fuse, _quantize, _lower, _shrink)


def describe_fit(estimate: RunEstimate, available: int, name: str = "", command: Sequence[str] = ()) -> str:
    """Return the words to add to a command so that the run fits into a memory, or what else would.

    Args:
        estimate: of the run.
        available: bytes of the memory.
        name: the memory as the user has written it.
        command: the words of the run, of which some may have to be replaced.
    """
    size = f"{name} ({available / 2**30:.1f} GiB)" if name else f"{available / 2**30:.1f} GiB"
    if proposal := propose_fit(estimate, available):
        step = f"{proposal.examples} x {proposal.accumulation} examples a step and device"
        amount = f"{_format_need(proposal)}, {step}"
        if not proposal.words:
            return f"fits into {size} as it is: {amount}"
        own = estimate.memory(every=estimate.checkpoint_every)
        already = f" as it is ({needed(own) / 2**30:.1f} GiB), and faster" if fits(own, available) else ""
        return f"fits into {size}{already} with these words: {amount}\n{_format_words(proposal, command)}"
    least = needed(estimate.memory(1, 1)) / 2**30
    text = f"does not fit into {size}: one example needs {least:.1f} GiB, with all layers recomputed"
    remedies, smallest = find_remedies(estimate, available)
    if remedies:
        listed = "\n".join(
            f"{_format_words(remedy, command)}   ({_format_need(remedy)})" for remedy in remedies
        )
        return f"{text}. What would fit:\n{listed}"
    if smallest is None:
        return f"{text}, and nothing needs less"
    return (
        f"{text}. What needs the least does not fit either:\n{_format_words(smallest, command)}   "
        f"({_format_need(smallest)})"
    )


def _format_need(proposal: Proposal) -> str:
    return f"{needed(proposal.memory) / 2**30:.1f} GiB"


def _format_words(proposal: Proposal, command: Sequence[str]) -> str:
    """Return the words to add, and those of the command in whose place they are, which are no more."""
    keys = {word.partition("=")[0] for word in proposal.words}
    former = [word for word in command if word.partition("=")[0] in keys]
    words = "  " + " ".join(proposal.words)
    return f"{words}   in place of {' '.join(former)}" if former else words
