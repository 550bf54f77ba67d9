"""Attention kernels of a training, forward and backward of one layer with PaliGemma 3B's heads.

python benchmarks/attention.py [--tokens 272 1040 2048] [--rows 2] [--dtype bfloat16]

The candidates of `finetune/model/kernels.py` take turns on random queries, keys and values: rows of two
prefix lengths with a suffix of about 12 tokens. Times are the shortest of the turns, in processor seconds
on a CPU and by the clock on a GPU; memory is what a layer keeps for its backward pass, beyond its inputs.
"""

import argparse
import time
from typing import Any

import torch
from torch import Tensor
from transformers import Gemma2Config, Gemma2Model, GemmaConfig, GemmaModel, PreTrainedModel

from finetune.model.kernels import build_layer, find_faults, list_candidates

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build(backbone: str) -> tuple[PreTrainedModel, str]:
    """Return one layer with the heads of the 3B model, and its kernel with a dense mask."""
    sizes: dict[str, Any] = {
        "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 8, "head_dim": 256,
    }  # fmt: skip
    if backbone == "paligemma":
        return GemmaModel(GemmaConfig(**sizes, num_key_value_heads=1)).to(DEVICE), "sdpa"
    return Gemma2Model(Gemma2Config(**sizes, num_key_value_heads=4)).to(DEVICE), "eager"


def lay_out(rows: int, tokens: int) -> Any:
    """Return what an attention reads of a batch: every second prefix is 6 tokens shorter."""
    lengths = [tokens - 12 - 6 * (row % 2) for row in range(rows)]
    types = (torch.arange(tokens) >= torch.tensor(lengths)[:, None]).long().to(DEVICE)
    return {"input_ids": torch.zeros_like(types), "token_type_ids": types, "prefix_lengths": lengths}


def measure(layer: Any, kernel: str) -> tuple[float, float]:
    """Return milliseconds and MiB of one forward and backward."""
    kept: dict[int, int] = {}
    inputs = {tensor.untyped_storage().data_ptr() for tensor in layer.inputs}
    described = layer.describe(kernel)

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in inputs:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        layer.differentiate(kernel, described)
    clock = time.perf_counter if DEVICE.type == "cuda" else time.process_time
    began = clock()
    layer.differentiate(kernel, described)
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return 1000 * (clock() - began), sum(kept.values()) / 2**20


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=[272, 1040, 2048])
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    given = parser.parse_args()
    print("| backbone | tokens | kernel | ms | of the dense mask's | MiB kept |\n|---|---|---|---|---|---|")
    for backbone in ("paligemma", "paligemma2"):
        model, dense = build(backbone)
        for tokens in given.tokens:
            batch = lay_out(given.rows, tokens)
            layer = build_layer(model, batch, given.rows, getattr(torch, given.dtype), tokens)
            candidates = list_candidates(model, tokens)
            faults = find_faults(layer, candidates, dense)
            usable = [dense, *(kernel for kernel in candidates if kernel not in faults)]
            turns = [{kernel: measure(layer, kernel) for kernel in usable} for _ in range(given.turns)]
            fastest = {kernel: min(turn[kernel] for turn in turns) for kernel in usable}
            for kernel, (taken, kept) in fastest.items():
                share = taken / fastest[dense][0]
                print(f"| {backbone} | {tokens} | {kernel} | {taken:.1f} | {share:.2f} | {kept:.1f} |")
            for kernel, why in faults.items():
                print(f"| {backbone} | {tokens} | {kernel} | {why} | | |")


if __name__ == "__main__":
    main()
