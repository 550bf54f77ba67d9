"""What a training step executes, keeps and moves, counted on tensors without content, on any machine.

    python benchmarks/counts.py            a table, compared with counts.json
    python benchmarks/counts.py --write    stores the counts

One layer of each kind runs forward and backward with the real shapes of PaliGemma 3B (224 pixels, LoRA of
rank 8 on the language model, bfloat16 autocast, 16 text tokens of which 4 are supervised), as PEFT has it,
as it is trained here, and with each shortcut off.

*Useful* operations are those of `finetune/model/flops.py`: what the gradient needs if every layer is
computed at all positions. Here the last one is not, so that a little less than the useful is executed.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

from finetune.assembly.model import freeze_and_adapt
from finetune.config.compose import compose
from finetune.model.compiling import compiled_layers
from finetune.model.flops import ExampleSize, count_useful, describe_learning
from finetune.model.load import build_meta_model
from finetune.model.published import published_config
from finetune.model.surgery import operate
from finetune.model.towers import find_tower
from finetune.speed import SpeedOptions, Technique

STORED = Path(__file__).with_name("counts.json")
MODEL = "google/paligemma-3b-pt-224"
EXAMPLES, IMAGE, TEXT, SUPERVISED = 2, 256, 16, 4
TOKENS = IMAGE + TEXT

aten = torch.ops.aten
ATTEND = aten._scaled_dot_product_flash_attention_for_cpu
ATTEND_BACK = aten._scaled_dot_product_flash_attention_for_cpu_backward
PRODUCTS = {aten.mm, aten.addmm, aten.addmm_, aten.bmm, aten.baddbmm, ATTEND, ATTEND_BACK}
PLAIN = replace(
    SpeedOptions(),
    **{field.name: False for field in fields(SpeedOptions) if field.type is bool},
)
OF_LAYERS = ("last_layer", "half_inputs", "lean_adapters", "lean_mlp", "lean_norms")


class Counts(NamedTuple):
    """Of a step with `EXAMPLES` examples, or of a decoder layer and token."""

    flops: float
    """Of all products, 1e12."""
    kept: float
    """For the backward pass by a decoder layer, KiB a token."""
    moved: float
    """Read and written by a decoder layer besides products, KiB a token."""
    launches: int
    """Operations of a decoder layer that would start a kernel."""


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts bytes and operations; views cost nothing."""

    moved = launches = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        read = [value for value in args if isinstance(value, Tensor)]
        results = result if isinstance(result, tuple) else (result,)
        written = [value for value in results if isinstance(value, Tensor)]
        if not read or func.is_view or not written:
            return result
        self.launches += 1
        packet = func.overloadpacket
        if packet not in PRODUCTS:
            self.moved += sum(value.numel() * value.element_size() for value in read + written)
        elif packet == aten.addmm_:  # it reads what it adds to
            self.moved += written[0].numel() * written[0].element_size()
        return result


def attention_flops(query: Sequence[int], key: Sequence[int], *args: Any, **kwargs: Any) -> int:
    """Return the operations of both products of attention."""
    batch, heads, rows, width = query
    return 4 * batch * heads * rows * key[2] * width


def attention_backward_flops(
    grad: Sequence[int], query: Sequence[int], key: Sequence[int], *args: Any, **kwargs: Any
) -> int:
    """Return the operations of the four products of the gradient, without the scores computed again."""
    return 2 * attention_flops(query, key)


def add_product_flops(
    into: object, left: Sequence[int], right: Sequence[int], *args: Any, **kwargs: Any
) -> int:
    """Return the operations of a product that is added in place."""
    return 2 * left[0] * left[1] * right[1]


FLOPS = {
    aten.addmm_: add_product_flops,
    ATTEND: attention_flops,
    ATTEND_BACK: attention_backward_flops,
}


def count_layer(
    layer: nn.Module, config: PaliGemmaConfig, *, is_last: bool = False
) -> tuple[int, int, Traffic]:
    """Run a decoder layer forward and backward: operations, bytes kept, and traffic."""
    text = config.text_config
    kept: dict[int, Tensor] = {}
    with FakeTensorMode():
        weights = {
            name: torch.empty(weight.shape, dtype=weight.dtype).requires_grad_(weight.requires_grad)
            for name, weight in [*layer.named_parameters(), *layer.named_buffers()]
        }
        hidden = torch.empty(EXAMPLES, TOKENS, text.hidden_size, dtype=torch.bfloat16).requires_grad_()
        angles = torch.empty(1, TOKENS, text.head_dim, dtype=torch.bfloat16)
        mask = torch.empty(EXAMPLES, 1, TOKENS, TOKENS, dtype=torch.bfloat16)
        inputs: dict[str, object] = {"attention_mask": mask, "position_embeddings": (angles, angles)}
        if is_last:
            columns = torch.zeros(EXAMPLES, SUPERVISED, dtype=torch.int64)
            inputs |= {"supervised_columns": columns, "supervised_places": columns.flatten()}
        known = {tensor.untyped_storage()._cdata for tensor in [*weights.values(), angles, mask]}

        def keep(tensor: Tensor) -> Tensor:
            if (storage := tensor.untyped_storage()._cdata) not in known:
                kept[storage] = tensor
            return tensor

        flops = FlopCounterMode(display=False, custom_mapping=FLOPS)
        traffic = Traffic()  # type: ignore[no-untyped-call]
        with flops, traffic:
            with saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
                output = functional_call(layer, weights, (hidden,), inputs)
            torch.autograd.backward(output, torch.empty_like(output))
        sizes = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    return flops.get_total_flops(), sizes, traffic


def adapt(base: PaliGemmaForConditionalGeneration) -> nn.Module:
    """Return a model with adapters on its language model, as the recipe has them."""
    options = compose(["recipe=vqav2_lora", "peft.r=8"])
    return freeze_and_adapt(base, options.model, options.freeze, options.peft, torch.bfloat16, None)


def build_model() -> tuple[PaliGemmaConfig, nn.Module]:
    """Return configuration and model, adapted and without content."""
    config = published_config(MODEL)
    assert config is not None
    return config, adapt(build_meta_model(config, torch.bfloat16))


def count_step(speed: SpeedOptions) -> Counts:
    """Return the counts with these shortcuts."""
    config, model = build_model()
    operate(model.train(), speed, autocast=True)
    layers = find_tower(model, "language_model").layers
    flops, kept, traffic = count_layer(layers[1], config)
    last, _, _ = count_layer(layers[-1], config, is_last=True)
    head = 2 * 2 * EXAMPLES * SUPERVISED * config.text_config.hidden_size * config.text_config.vocab_size
    total = (len(layers) - 1) * flops + last + head + EXAMPLES * count_vision(config)
    tokens = EXAMPLES * TOKENS * 1024
    return Counts(
        round(total / 1e12, 3), round(kept / tokens, 1), round(traffic.moved / tokens), traffic.launches
    )


def count_vision(config: PaliGemmaConfig) -> float:
    """Return the operations of a frozen vision tower and projector for one image."""
    vision = config.vision_config
    width = vision.hidden_size
    layer = 2 * IMAGE * (4 * width**2 + 2 * width * vision.intermediate_size) + 4 * IMAGE**2 * width
    patches = 2 * IMAGE * width * 3 * vision.patch_size**2
    return vision.num_hidden_layers * layer + patches + 2 * IMAGE * width * config.text_config.hidden_size


def useful_flops() -> float:
    """Return the useful operations of a step, 1e12, as `finetune/model/flops.py` defines them."""
    config, model = build_model()
    example = ExampleSize(IMAGE, 1, TEXT - SUPERVISED, SUPERVISED)
    return EXAMPLES * count_useful(config, describe_learning(model), example) / 1e12


def count_breaks() -> int:
    """Return how often compiled layers of both towers leave their graphs, on a small model."""
    config = published_config(MODEL)
    assert config is not None
    text, vision = config.text_config, config.vision_config
    for part in (text, vision):
        part.num_hidden_layers, part.hidden_size, part.intermediate_size = 2, 32, 64
    text.num_attention_heads, text.head_dim, text.vocab_size = 2, 16, 64
    vision.num_attention_heads = 2
    model = adapt(build_meta_model(config, torch.float32)).to_empty(device="cpu").train()
    operate(model, SpeedOptions(), autocast=True)
    decoder = find_tower(model, "language_model").layers[0]
    tower = find_tower(model, "vision_tower").encoder.layers[0]
    hidden, angles = torch.zeros(EXAMPLES, TOKENS, 32), torch.zeros(1, TOKENS, 16)
    mask = torch.ones(EXAMPLES, 1, TOKENS, TOKENS, dtype=torch.bool)
    counters.clear()
    with compiled_layers(model, Technique("compile", True, ""), "eager"):
        decoder(hidden, attention_mask=mask, position_embeddings=(angles, angles))
        tower(hidden, attention_mask=None)
    assert counters["stats"]["unique_graphs"] == 2, "both layers have been compiled"
    return sum(counters["graph_break"].values())


def count_all() -> dict[str, Counts]:
    """Return the counts as PEFT has them, with all shortcuts, and with each off that changes a layer."""
    on = SpeedOptions()
    variants = {"peft": PLAIN, "ours": on}
    variants |= {f"without {name}": replace(on, **{name: False}) for name in OF_LAYERS}
    return {name: count_step(speed) for name, speed in variants.items()}


def main() -> None:
    """Print the counts, or store them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="store the counts in counts.json")
    given = parser.parse_args()
    counts = count_all()
    useful = useful_flops()
    print(f"useful operations of a step: {useful:.3f}e12; graph breaks: {count_breaks()}")
    print("| | operations, 1e12 | of the useful | kept, KiB | moved, KiB | launches |")
    print("|---|---|---|---|---|---|")
    for name, row in counts.items():
        share = row.flops / useful
        print(f"| {name} | {row.flops:.3f} | {share:.3f} | {row.kept} | {row.moved} | {row.launches} |")
    stored = {name: row._asdict() for name, row in counts.items()}
    if given.write:
        STORED.write_text(json.dumps(stored, indent=1) + "\n")
    elif stored != json.loads(STORED.read_text()):
        raise SystemExit("these are not the counts of counts.json")


if __name__ == "__main__":
    main()
