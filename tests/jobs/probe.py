"""A command as one of several processes, watched: torchrun starts this file, tests read what it writes.

`probe.py WATCH FOLDER WORDS...`
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from finetune.cli import main
from finetune.data.examples.inspection import Inspection
from finetune.training.trainer import PaliGemmaTrainer
from tests.jobs.forked import at_call, kill_myself


def watch_dropout(folder: Path) -> None:
    """Write down which examples each step of this process has, and which activations are dropped."""
    drop, compute_loss = torch.nn.functional.dropout, PaliGemmaTrainer.compute_loss
    seen: dict[str, list[Any]] = {"masks": [], "ids": []}

    def save() -> None:
        (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(seen))

    def watched_drop(numbers: torch.Tensor, *arguments: Any, **keywords: Any) -> torch.Tensor:
        dropped = drop(numbers, *arguments, **keywords)
        # Not where the memory of a layer is estimated: fake tensors have no content.
        if keywords.get("training") and type(dropped) is torch.Tensor:
            mask = (dropped.detach()[0, 0] == 0).float()
            seen["masks"].append(hashlib.sha256(mask.numpy().tobytes()).hexdigest())
            save()
        return dropped

    def watched_loss(self: Any, model: Any, inputs: Any, *arguments: Any, **keywords: Any) -> Any:
        seen["ids"].append(inputs["ids"])
        save()
        return compute_loss(self, model, inputs, *arguments, **keywords)

    torch.nn.functional.dropout = watched_drop  # type: ignore[assignment]
    PaliGemmaTrainer.compute_loss = watched_loss  # type: ignore[method-assign]


def die_once(folder: Path) -> None:
    """Kill the second process in its third step, the first time that it is started."""
    if os.environ["RANK"] == "1" and not (folder / "died").exists():
        (folder / "died").touch()
        at_call(PaliGemmaTrainer, "compute_loss", 3, kill_myself)


def watch_inspection(folder: Path) -> None:
    """Write down that this process inspects rows."""
    inspect = Inspection.__getitem__

    def watched(self: Inspection, number: int) -> Any:
        (folder / f"inspected{os.environ['RANK']}").touch()
        return inspect(self, number)

    Inspection.__getitem__ = watched  # type: ignore[method-assign]


WATCHES: dict[str, Callable[[Path], None]] = {
    "dropout": watch_dropout,
    "die_once": die_once,
    "inspection": watch_inspection,
}

if __name__ == "__main__":
    watch, target, *words = sys.argv[1:]
    WATCHES[watch](Path(target))
    sys.exit(main(words))
