"""The environment of a run for `environment.json`: versions, commit, hardware and command line."""

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from finetune.errors import UserError
from finetune.run.files import read_json

_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "datasets", "accelerate", "hydra-core")


def read_environment(file: Path) -> dict[str, Any]:
    """Return the content of a run's `environment.json`; nothing if it is not there or cannot be read."""
    try:
        content = read_json(file)
    except UserError:
        return {}
    return content if isinstance(content, dict) else {}


def describe_environment(
    command: list[str],
    base: dict[str, Any],
    attention: dict[str, Any] | None = None,
    rows: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the content of `environment.json`.

    Args:
        command: words of the command line.
        base: the checkpoint: `path`, `revision`, `hub_id`, `commit` and `fingerprint`.
        attention: the kernel that trains, `kernel`, and why it does; a resumed run keeps it.
        rows: number and digest of the rows of each split; a resumed run must have the same.
    """
    import torch

    commit = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "command": command,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "commit": commit or None,
        "base": base,
        **({} if attention is None else {"attention": attention}),
        **({} if rows is None else {"rows": rows}),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
    }
