"""Tokens of a step with padding, for each token that is needed, with examples sorted by length and without.

python benchmarks/padding.py

Computed from the lengths of `workloads.py`, in an instant: nothing is trained.
"""

import numpy as np
from workloads import WORKLOADS

from finetune.data.batches.grouping import GroupedStream, Grouping, Passes
from finetune.data.batches.order import ExampleStream

EXAMPLES, IMAGE_TOKENS, AROUND = 4096, 256, 2
"""Examples of a workload; tokens of an image at 224 pixels; BOS and newline."""
DIVISIONS = {
    "64 in 8 passes": (Passes(8, 1, 8), 1),
    "64 in 4 passes": (Passes(16, 1, 4), 1),
    "16 in one, of 16 steps": (Passes(16, 1, 1), 16),
}


def main() -> None:
    """Print a line for each workload and division of a step."""
    random = np.random.default_rng(0)
    print("workload  step                     as drawn  sorted")
    for name, workload in WORKLOADS.items():
        prefix = random.integers(workload.prefix[0], workload.prefix[1] + 1, EXAMPLES)
        shape = (EXAMPLES, workload.targets)
        suffixes = random.integers(workload.suffix[0], workload.suffix[1] + 1, shape) + 1  # EOS
        lengths = IMAGE_TOKENS + AROUND + prefix + suffixes.sum(1)
        for division, (step, steps) in DIVISIONS.items():
            stream = ExampleStream([EXAMPLES], EXAMPLES, seed=0)
            grouping = Grouping(lengths, steps, step.size)
            ratios = []
            for order in (stream, GroupedStream(stream, grouping, step)):
                drawn = lengths[[index for _, index in order]]
                ratios.append(step.count_padded(drawn) / drawn.sum())
            print(f"{name:9} {division:24} {ratios[0]:8.3f}  {ratios[1]:6.3f}")


if __name__ == "__main__":
    main()
