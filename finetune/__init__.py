"""Fine-tuning for PaliGemma 1 and 2: `python -m finetune --help`, or from Python `finetune.train(...)`.

>>> import finetune
>>> result = finetune.train(recipe="quickstart", peft={"r": 16})
>>> result.scores["exact_match"], result.folder
>>> finetune.predict(run=result.folder, image="digit.png", prefix="answer en which digit is this?").rows
"""

from importlib import import_module

TYPE_CHECKING = False  # as in `typing`, which takes longer to import than all the rest
if TYPE_CHECKING:
    from finetune.api import (
        compare,
        demo,
        evaluate,
        export,
        load,
        merge,
        plan,
        predict,
        preview,
        push,
        reproduce,
        score,
        train,
        write_report,
    )
    from finetune.errors import UserError

__all__ = [
    "UserError",
    "compare",
    "demo",
    "evaluate",
    "export",
    "load",
    "merge",
    "plan",
    "predict",
    "preview",
    "push",
    "reproduce",
    "score",
    "train",
    "write_report",
]


def __getattr__(name: str) -> object:
    """Import on first use: `import finetune` loads neither Hydra nor torch."""
    if name not in __all__:
        raise AttributeError(f"module `finetune` has no attribute `{name}`")
    return getattr(import_module("finetune.errors" if name == "UserError" else "finetune.api"), name)


def __dir__() -> list[str]:
    return __all__
