"""The table at the start of a run: learning, adapted and quantized parameters of each tower."""

from dataclasses import dataclass

import torch
from torch import nn

from finetune.model.options import PeftConfig
from finetune.model.towers import Tower, tower_of

SCALES = {(4, True): 0.127, (4, False): 0.5, (8, False): 0.01, (8, True): 0.01}
"""Bits of NF4's scales for each weight, with and without double quantization; LLM.int8 has one per row.
Source: https://arxiv.org/abs/2305.14314, section 3."""


@dataclass
class TowerCount:
    """Numbers of parameters of one tower."""

    parameters: int = 0
    """Of the base model, quantized ones counted unpacked."""
    learning: int = 0
    adapter: int = 0
    """In adapters and in copies of `modules_to_save`."""
    quantized: int = 0
    bytes: int = 0
    """Of all of them."""
    dtypes: frozenset[str] = frozenset()
    """Of the base model's weights."""
    learning_dtypes: frozenset[str] = frozenset()
    """Of the learning parameters."""


def count_parameters(model: nn.Module, planned: PeftConfig | None = None) -> dict[str, TowerCount]:
    """Count the parameters of each tower; shared ones once.

    Args:
        model: with or without adapters; may be on the meta device.
        planned: says how the weights would be stored, where they are not loaded.
    """
    counts: dict[str, TowerCount] = {tower: TowerCount() for tower in Tower}
    for name, parameter in model.named_parameters():
        count = counts[tower_of(name)]
        size, quantized = _size(parameter)
        count.bytes += stored_bytes(name, parameter, planned)
        if "lora_" in name or "modules_to_save" in name:
            count.adapter += size
        else:
            count.parameters += size
            count.quantized += size if quantized else 0
            if planned is not None and is_linear_weight(name, parameter) and planned.quantizes(name):
                count.quantized += size
                count.dtypes |= {"nf4" if planned.bits == 4 else "int8"}
            else:
                kind = "nf4" if hasattr(parameter, "quant_state") else str(parameter.dtype)
                count.dtypes |= {kind.removeprefix("torch.")}
        if parameter.requires_grad:
            count.learning += size
            count.learning_dtypes |= {str(parameter.dtype).removeprefix("torch.")}
    return counts


def stored_bytes(name: str, parameter: nn.Parameter, planned: PeftConfig | None) -> int:
    """Return the bytes of a parameter as it is, or will be, stored."""
    if (
        planned is None
        or "lora_" in name
        or not planned.quantizes(name)
        or not is_linear_weight(name, parameter)
    ):
        return parameter.numel() * parameter.element_size()
    scales = SCALES[planned.bits, planned.double_quant]
    return int(parameter.numel() * (planned.bits + scales) / 8)


def is_linear_weight(name: str, parameter: nn.Parameter) -> bool:
    """Return whether a parameter can be quantized: embeddings and norms never are."""
    return name.endswith("weight") and parameter.ndim == 2 and "embed" not in name


def _size(parameter: nn.Parameter) -> tuple[int, bool]:
    """Return the number of weights, and whether they are quantized."""
    state = getattr(parameter, "quant_state", None)
    if state is not None:
        return int(torch.Size(state.shape).numel()), True
    return parameter.numel(), parameter.dtype == torch.int8


def describe_counts(counts: dict[str, TowerCount]) -> dict[str, dict[str, int | str]]:
    """Return the counts of each tower, as `metrics.json` has them."""
    return {
        str(tower): {
            "parameters": count.parameters,
            "learning": count.learning,
            "adapter": count.adapter,
            "quantized": count.quantized,
            "dtype": "+".join(sorted(count.dtypes)),
            "learns in": "+".join(sorted(count.learning_dtypes)),
        }
        for tower, count in counts.items()
    }


def format_table(counts: dict[str, TowerCount]) -> str:
    """Lay the counts out as text."""
    rows: list[tuple[str, ...]] = [
        ("tower", "parameters", "learning", "adapter", "quantized", "MiB", "dtype", "learns in")
    ]
    for tower, count in counts.items():
        numbers = (count.parameters, count.learning, count.adapter, count.quantized)
        formats = ("+".join(sorted(names)) or "-" for names in (count.dtypes, count.learning_dtypes))
        rows.append((tower, *(f"{n:,}" for n in numbers), f"{count.bytes / 2**20:,.1f}", *formats))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(row[1:6], widths[1:6], strict=True)]
        lines.append("  ".join([f"{row[0]:<{widths[0]}}", *cells, f"{row[6]:<{widths[6]}}", row[7]]))
    learning = sum(count.learning for count in counts.values())
    total = sum(count.parameters + count.adapter for count in counts.values())
    lines.append(f"learning: {learning:,} of {total:,} parameters ({learning / total:.3%})")
    return "\n".join(lines)
