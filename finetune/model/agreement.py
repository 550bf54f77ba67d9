"""Whether a merged model computes what its adapter on the base computes: weight by weight, and in logits.

Both are computed in float32, whatever the formats of the weights, so that what differs is the rounding of
the merged weights and nothing else. Only one layer at a time is converted.

**Weights.** Samples of every weight are taken before the merge; those of adapted layers by PEFT's forward
pass of unit vectors, which gives columns of the weight without the merge's own arithmetic. A merged weight
may differ by half the distance of two numbers of its format (`eps / 2`, relative), and by what float32
loses in sums. A wrong scale, a skipped layer or a lost copy is far outside, in every format.

**Logits.** A rounded weight is off by at most `eps / 2`, up or down alike. So each layer's output is off by
less than that, relative to its size, and the errors of n layers in a row add up as sqrt(n). The tolerance
is therefore `eps / 2 * sqrt(n)`, relative to the spread of the logits, where n is the number of linear
layers: 2.9 % for the tiny base in bfloat16, 6.7 % for PaliGemma 3B. In float32, sums of thousands of
products lose more than one rounding does: it is at least `LEAST`.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from unittest.mock import patch

import torch
from peft.tuners.lora import LoraLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn

from finetune.errors import UserError
from finetune.example import Batch
from finetune.model.forward import compute_logits, to_device
from finetune.model.merge import ADAPTER, read_weight, unwrap

LEAST = 1e-4
"""Least tolerance of logits: a hundred times what float32 loses on the tiny base."""
SUMS = 1e-5
"""Relative to a weight's largest number: what float32 loses in the sums of an adapter."""
_COLUMNS = 4
"""Columns of each adapted weight that are compared."""
_ENTRIES = 512
"""Numbers of each other weight that are compared."""


@dataclass(frozen=True)
class Sample:
    """Some numbers of a weight."""

    index: Tensor
    """(n,) int64: their places in the flattened weight."""
    values: Tensor
    """(n,) float32."""


@dataclass(frozen=True)
class Agreement:
    """How far the logits of two models differ."""

    greatest: float
    """Greatest difference of a logit."""
    relative: float
    """Root mean square of the differences, relative to that of the logits around their mean."""
    tolerance: float
    """Most that `relative` may be."""

    def check(self, name: str) -> None:
        """Raise if the logits differ by more than the tolerance.

        Args:
            name: the format of the merged model.

        Raises:
            UserError: they do.
        """
        if not self.relative <= self.tolerance:
            percent, explained = 100 * self.relative, 100 * self.tolerance
            raise UserError(
                f"The merged model in {name} does not compute what the adapter computes: its logits differ "
                f"by {percent:.2g} % of their spread, and rounding explains {explained:.2g} %. Nothing was "
                "written. dtype=float32 rounds less."
            )


@contextmanager
def computing_in_float32(model: nn.Module) -> Iterator[None]:
    """Compute in float32, with weights converted layer by layer while they are needed.

    Args:
        model: a PaliGemma, with an adapter or without. Its small weights stay converted afterwards: norms,
            convolutions, adapters; the values are the same.
    """
    stored: dict[nn.Module, dict[str, nn.Parameter | None]] = {}

    def widen(module: nn.Module, _: object) -> None:
        stored[module] = dict(module._parameters)
        for name, parameter in stored[module].items():
            if parameter is not None:
                values = read_weight(module) if name == "weight" else parameter.detach()
                module._parameters[name] = nn.Parameter(values.float(), requires_grad=False)

    def restore(module: nn.Module, *_: object) -> None:
        module._parameters.update(stored.pop(module))

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding) and ".lora_" not in name:
                stack.callback(module.register_forward_pre_hook(widen).remove)
                stack.callback(module.register_forward_hook(restore, always_call=True).remove)
                if isinstance(module, nn.Linear) and not module.weight.is_floating_point():
                    # bitsandbytes computes in 16 bits, and in 8 rounds the inputs too.
                    stack.enter_context(patch.object(module, "forward", partial(nn.Linear.forward, module)))
            else:
                for parameter in module.parameters(recurse=False):
                    parameter.data = parameter.data.float()
            if isinstance(module, nn.Embedding) and hasattr(module, "scalar_embed_scale"):
                # Gemma's factor of the embedding, which was rounded to the format of the weights.
                module.embed_scale = torch.tensor(module.scalar_embed_scale, device=module.weight.device)
        yield


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


@torch.no_grad()
def sample_weights(model: nn.Module) -> dict[str, Sample]:
    """Read some numbers of every weight that a model computes with, under its name without adapter."""
    base = unwrap(model)
    samples: dict[str, Sample] = {}
    generator = torch.Generator().manual_seed(0)
    with computing_in_float32(base):
        inside = ""
        for name, module in base.named_modules():
            if inside and name.startswith(inside):
                continue
            inside = ""
            if isinstance(module, LoraLayer):
                inside = f"{name}."
                samples |= _sample_adapted(name, module, generator)
                continue
            wrapped = module
            if isinstance(module, ModulesToSaveWrapper):
                inside = f"{name}."
                wrapped = module.modules_to_save[ADAPTER]
            for key, value in wrapped.named_parameters(recurse=bool(inside)):
                tensor = value if value.is_floating_point() else read_weight(wrapped)
                index = torch.randint(tensor.numel(), (min(_ENTRIES, tensor.numel()),), generator=generator)
                values = tensor.flatten()[index.to(tensor.device)]
                samples[f"{name}.{key}"] = Sample(index, values.float().cpu())
    return samples


def _sample_adapted(name: str, layer: LoraLayer, generator: torch.Generator) -> dict[str, Sample]:
    """Read columns of an adapted weight (of an embedding: rows) and its bias, as PEFT computes them."""
    base = layer.get_base_layer()
    device = base.weight.device
    if isinstance(base, nn.Embedding):
        rows, width = base.num_embeddings, base.embedding_dim
        chosen = torch.randint(rows, (_COLUMNS,), generator=generator)
        scale = float(getattr(base, "scalar_embed_scale", 1.0))
        values = layer(chosen.to(device)[None])[0] / scale
        index = chosen[:, None] * width + torch.arange(width)
        return {f"{name}.weight": Sample(index.flatten(), values.flatten().cpu())}
    inputs, outputs = base.in_features, base.out_features
    chosen = torch.randint(inputs, (_COLUMNS,), generator=generator)
    units = nn.functional.one_hot(chosen, inputs).float().to(device)
    bias = layer(torch.zeros_like(units))
    values = (layer(units) - bias).T
    index = torch.arange(outputs)[:, None] * inputs + chosen
    samples = {f"{name}.weight": Sample(index.flatten(), values.flatten().cpu())}
    if base.bias is not None:
        samples[f"{name}.bias"] = Sample(torch.arange(outputs), bias[0].cpu())
    return samples


def check_weights(samples: dict[str, Sample], merged: nn.Module) -> None:
    """Compare a merged model with samples of the model before the merge.

    Args:
        samples: from `sample_weights`.
        merged: a plain PaliGemma.

    Raises:
        UserError: names the weights that differ by more than rounding.
    """
    weights = dict(merged.named_parameters(remove_duplicate=False))
    wrong = []
    for name, sample in samples.items():
        weight = weights[name].detach().flatten()[sample.index.to(weights[name].device)].cpu()
        allowed = (
            torch.finfo(weight.dtype).eps / 2 * sample.values.abs() + SUMS * sample.values.abs().amax()
        )
        if not ((weight.float() - sample.values).abs() <= allowed).all():
            wrong.append(name)
    if wrong:
        raise UserError(
            f"The merge is wrong: {len(wrong)} of {len(samples)} weights differ by more than rounding from "
            f"what the adapter computes, such as {wrong[0]}. Nothing was written. This is a fault of this "
            "version or of the memory: merge again, and report it."
        )


@torch.no_grad()
def compute_logits_in_float32(model: nn.Module, batches: Sequence[Batch]) -> Tensor:
    """Return the logits of the supervised tokens of some batches: (N, V), on the CPU."""
    device = _device(model)
    with computing_in_float32(model):
        logits = [compute_logits(model, to_device(batch, device)).float().cpu() for batch in batches]
    return torch.cat(logits)


def compare_logits(reference: Tensor, merged: Tensor, model: nn.Module, dtype: torch.dtype) -> Agreement:
    """Compare the logits of a merged model with those before the merge.

    Args:
        reference: (N, V), before.
        merged: (N, V), after.
        model: the merged model; the number of its layers decides the tolerance.
        dtype: format of its weights.
    """
    layers = sum(isinstance(module, nn.Linear) for module in model.modules())
    difference = merged - reference
    spread = (reference - reference.mean(-1, keepdim=True)).square().mean().sqrt()
    return Agreement(
        greatest=float(difference.abs().max()),
        relative=float(difference.square().mean().sqrt() / spread),
        tolerance=max(torch.finfo(dtype).eps / 2 * layers**0.5, LEAST),
    )
