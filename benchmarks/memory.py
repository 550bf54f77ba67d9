"""Memory of a training step for every recipe, computed as `plan` does: no weights, no data, no GPU.

python benchmarks/memory.py prints a Markdown table.
"""

import logging

from finetune.config.compose import compose, known_recipes
from finetune.jobs.plan import plan_model, plan_shape
from finetune.model.published import published_config


def main() -> None:
    """Print a row for each recipe of a published checkpoint that trains."""
    logging.getLogger("finetune").setLevel(logging.WARNING)
    head = "recipe, pixels, batch, checkpointing, weights, learning state, activations, sum".split(", ")
    print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|")
    for recipe in known_recipes():
        options = compose([f"recipe={recipe}"])
        config = published_config(options.model.path)
        if config is None or getattr(options.dataset, "train", "") is None:
            continue  # not a published checkpoint, or a benchmark that is only scored
        memory = plan_model(options).memory
        sizes = (
            memory.weights,
            memory.gradients + memory.optimizer,
            memory.activations + memory.logits,
            memory.total,
        )
        columns = [
            f"`{recipe}`",
            str(config.vision_config.image_size),
            str(plan_shape(options, config).examples),
            "yes" if options.trainer.activation_checkpointing else "no",
            *(f"{size / 2**30:.1f}" for size in sizes),
        ]
        print(f"| {' | '.join(columns)} |")


if __name__ == "__main__":
    main()
