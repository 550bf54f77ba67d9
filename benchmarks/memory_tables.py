"""Memory of a training step, computed as `plan` does: no weights, no data, no GPU.

python benchmarks/memory_tables.py cards prints the largest batches by card, for docs/performance.md;
python benchmarks/memory_tables.py recipes prints the memory of every recipe, for docs/recipes.md.
"""

import sys
from collections.abc import Iterator

from finetune.assembly.estimate import RunEstimate
from finetune.assembly.fit import fits
from finetune.assembly.lengths import RowLengths
from finetune.config.compose import compose, known_recipes
from finetune.model.published import published_config

CARDS = (8, 16, 24, 48, 80)
"""Memory of the cards, 10^9 bytes."""

SIDES = (224, 448, 896)
METHODS = {
    "QLoRA": ["peft=qlora", "freeze=vision"],
    "LoRA": ["peft=lora", "freeze=vision"],
    "DoRA": ["peft=dora", "freeze=vision"],
    "full decoder": ["peft=none", "freeze=vision"],
    "full": ["peft=none", "freeze=none"],
}
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
SHORT = RowLengths(longest=32, mean=20.0, longest_supervised=8, mean_supervised=4.0)
"""Questions with short answers."""


def list_cells(method: str, side: int) -> list[str]:
    """Return the largest batch without and with activation checkpointing for each card."""
    words = [f"model.resolution={side}", "trainer.optim=adamw_torch_fused", *METHODS[method]]
    options = compose(["recipe=vqav2_lora", *words])
    config = published_config(options.model.path)
    assert config is not None
    estimate = RunEstimate(options, config, SHORT)
    cells = []
    for card in CARDS:
        most = [largest(estimate, every, card * 10**9) for every in (None, 1)]
        cells.append("-" if not any(most) else f"{most[0] or '-'} / {most[1]}")
    return cells


def largest(estimate: RunEstimate, every: int | None, available: int) -> int:
    """Return the largest batch that fits; 0 if none does."""
    sizes = [size for size in BATCHES if fits(estimate.memory(size, every, alone=True), available)]
    return max(sizes, default=0)


def list_cards() -> Iterator[str]:
    """Yield the table of the largest batches."""
    head = ["method", "pixels", *(f"{card} GB" for card in CARDS)]
    yield f"| {' | '.join(head)} |\n{'|---' * len(head)}|"
    for method in METHODS:
        for side in SIDES:
            yield f"| {' | '.join([method, str(side), *list_cells(method, side)])} |"


def list_recipe(recipe: str) -> str | None:
    """Return the row of a recipe; None for one that does not train a published checkpoint."""
    options = compose([f"recipe={recipe}"])
    config = published_config(options.model.path)
    if config is None or getattr(options.dataset, "train", "") is None:
        return None
    estimate = RunEstimate(options, config)
    every = estimate.checkpoint_every
    memory = estimate.memory(every=every)
    sizes = (
        memory.weights,
        memory.gradients + memory.optimizer,
        memory.activations + memory.logits,
        memory.allocated,
    )
    columns = [
        f"`{recipe}`",
        str(config.vision_config.image_size),
        str(estimate.shape().examples),
        "no" if every is None else "yes",
        *(f"{size / 2**30:.1f}" for size in sizes),
    ]
    return f"| {' | '.join(columns)} |"


def list_recipes() -> Iterator[str]:
    """Yield the table of the recipes."""
    head = "recipe, pixels, batch, checkpointing, weights, learning state, activations, sum".split(", ")
    yield f"| {' | '.join(head)} |\n{'|---' * len(head)}|"
    yield from filter(None, map(list_recipe, known_recipes()))


if __name__ == "__main__":
    for line in {"cards": list_cards, "recipes": list_recipes}[sys.argv[1]]():
        print(line, flush=True)
