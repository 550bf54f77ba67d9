"""The result of an export."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import printable
from finetune.onnx.parity import Parity
from finetune.result import Result


@dataclass(frozen=True)
class ExportResult(Result):
    """An exported model, and how far it agrees with the run's."""

    folder: Path
    """Has the page and what it reads; `onnx` in it the graphs."""
    files: Mapping[str, int]
    """File -> bytes."""
    parity: Parity
    """Compared token by token with the merged model in float32."""
    samples: str
    """What was asked: images of the validation split, or made-up ones."""
    scores: Mapping[str, Any]
    """Of the graphs' answers to these samples; empty where they are made up."""
    model_scores: Mapping[str, Any]
    """Of the model's answers to the same samples."""
    has_runtime: bool
    """Whether Transformers.js was copied, so that the page runs as it is."""

    def show(self) -> None:
        """Print the files, the agreement and how to open the page."""
        for name, size in self.files.items():
            print(printable(f"{size / 1e6:10.1f} MB  {name}"))
        parity = self.parity
        print(
            f"{parity.equal} of {parity.answers} answers and {parity.equal_tokens} of {parity.tokens} "
            f"tokens are those of the merged model ({self.samples})"
        )
        if self.objective is not None:
            field = self.objective.field
            print(f"{field}: {self.scores[field]:.4g}; of the merged model {self.model_scores[field]:.4g}")
        if not self.has_runtime:
            print(
                "the page needs Transformers.js: export again with overwrite=true and "
                "runtime=FOLDER/node_modules (see the README.md in the folder)"
            )
        print(printable(f"to see the page: python -m http.server --directory {self.folder}"), flush=True)
