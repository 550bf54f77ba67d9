"""Options of the model: the checkpoint, which of its parameters learn, and how.

Imported by the configuration, so that help answers without torch: nothing heavy is imported here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from omegaconf import MISSING

from finetune.errors import UserError
from finetune.model.towers import Tower, tower_of
from finetune.option import BELOW_ONE, OneOf, Range, option

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
"""USER/NAME."""

COMMIT = re.compile(r"[0-9a-f]{40}")


class Dtype(StrEnum):
    """Floating-point formats of the weights."""

    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


class LearningDtype(StrEnum):
    """Floating-point formats of the learning parameters."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class Attention(StrEnum):
    """Attention kernels that apply PaliGemma's prefix mask."""

    auto = "auto"
    sdpa = "sdpa"
    eager = "eager"
    split_sdpa = "split_sdpa"
    split_fa2 = "split_fa2"
    split_cudnn = "split_cudnn"
    split_efficient = "split_efficient"
    split_eager = "split_eager"
    flex = "flex"


class Trainable(StrEnum):
    """Which parameters of a tower may learn."""

    all = "all"
    attention = "attention"
    none = "none"


class PeftMethod(StrEnum):
    """How the chosen towers learn."""

    none = "none"
    lora = "lora"


class AdapterBase(StrEnum):
    """Bases on which an adapter may be used."""

    trained = "trained"
    any = "any"


@dataclass
class ModelConfig:
    """The checkpoint and how it is loaded."""

    path: str = MISSING
    """Hub id or folder of a PaliGemma 1 or 2 checkpoint; `tiny` is the base shipped with the package."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    hub_id: str | None = None
    """Hub id (USER/NAME) of a checkpoint in a local folder: adapters name it as their base in place of the
    folder, so that they can be used elsewhere. With a commit as `model.revision` they name that too."""
    resolution: int | None = option(None, Range(1, 8192))
    """Side of the images in pixels (224, 448, 896), checked against the checkpoint. `null` accepts the
    checkpoint's resolution."""
    dtype: Dtype = Dtype.bfloat16
    """Format of the frozen weights; learning parameters have `learning_dtype`."""
    learning_dtype: LearningDtype = LearningDtype.float32
    """Format of the learning parameters: the weights themselves, adapters, `peft.modules_to_save`. In
    bfloat16 an update smaller than 1/256 of a weight is lost: at small learning rates hardly any weight
    moves."""
    attention: Attention = Attention.auto
    """`auto`: the fastest here, by a measurement of about a second when a training starts. `sdpa` and
    `eager` have a mask over all pairs of positions; only `eager` computes PaliGemma 2's attention soft-cap,
    and every evaluation uses them. The others are for training, without that mask: `split_sdpa` by torch's
    kernels (`split_fa2`, `split_cudnn`, `split_efficient`: that one, on a GPU), `split_eager` by matrix
    products, with the soft-cap too, `flex` by a compiled kernel for GPUs, likewise. Flash attention of
    transformers ignores the prefix mask, so that a suffix would see its own answer: it is refused."""
    final_logit_softcap: bool = False
    """Keep PaliGemma 2's soft-cap on the logits. The published transfers were trained without it."""
    llm_dropout: float = option(0.0, BELOW_ONE)
    """Dropout on the outputs of Gemma's attention and MLP layers, used by some of the published
    transfers."""

    def problems(self, prefix: str) -> Iterator[str]:
        """Yield options that contradict each other."""
        if self.hub_id is not None and not HUB_ID.fullmatch(self.hub_id):
            yield f"{prefix}hub_id={self.hub_id!r}: expected a Hub id, USER/NAME."


@dataclass
class FreezePolicy:
    """Which parameters may learn; with an adapter, which layers get one."""

    vision_tower: Trainable = Trainable.all
    """SigLIP: all of it, its attention layers, or nothing."""
    multi_modal_projector: Trainable = Trainable.all
    """The linear layer from SigLIP to Gemma: `all` or `none`."""
    language_model: Trainable = Trainable.all
    """Gemma: all of it (with the embeddings), its attention layers, or nothing."""
    last_n: int | None = option(None, Range(1, 1e4))
    """Only the last n layers of the language model learn."""

    def problems(self, prefix: str) -> Iterator[str]:
        """Yield options that contradict each other."""
        if self.multi_modal_projector == Trainable.attention:
            yield (
                f"{prefix}multi_modal_projector=attention: the projector is one linear layer; all or none."
            )
        if self.last_n is not None and self.language_model == Trainable.none:
            yield (
                f"{prefix}last_n applies to the language model, but {prefix}language_model=none freezes it."
            )

    def learns(self, name: str, layers: int) -> bool:
        """Return whether a parameter learns.

        Args:
            name: its dotted name.
            layers: number of layers of the language model.
        """
        tower = tower_of(name)
        what: Trainable = getattr(self, tower)
        if what == Trainable.none or (what == Trainable.attention and ".self_attn." not in name):
            return False
        if tower != Tower.language_model or self.last_n is None:
            return True
        layer = re.search(r"\.layers\.(\d+)\.", name)
        return layer is not None and int(layer[1]) >= layers - self.last_n

    def check(self, layers: int) -> None:
        """Raise if there are fewer layers than `last_n`.

        Raises:
            UserError: names the number of layers.
        """
        if self.last_n is not None and self.last_n > layers:
            raise UserError(
                f"freeze.last_n={self.last_n}, but the language model has {layers} layers: "
                f"give 1 to {layers}."
            )


@dataclass
class PeftConfig:
    """How the chosen towers learn."""

    method: PeftMethod = PeftMethod.none
    """`none`: the weights themselves learn. `lora`: low-rank adapters learn, on frozen weights."""
    r: int = option(8, Range(1, 65536))
    """Rank of the adapters."""
    lora_alpha: float = option(8.0, Range(0, 1e6, above_least=True))
    """The adapter's output is multiplied by lora_alpha / r (rsLoRA: / sqrt(r))."""
    lora_dropout: float = option(0.0, BELOW_ONE)
    """Dropout on the adapter's input."""
    target_modules: list[str] = field(
        default_factory=lambda: [
            "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
        ]
    )  # fmt: skip
    """Linear layers that get an adapter, by name, inside the towers that `freeze` lets learn.
    SigLIP's are called `q_proj`, `k_proj`, `v_proj`, `out_proj`, `fc1`, `fc2`; the projector's `linear`."""
    modules_to_save: list[str] = field(default_factory=list)
    """Modules that learn in full next to the adapters, such as `multi_modal_projector`."""
    use_dora: bool = False
    """DoRA: magnitude and direction are learned separately."""
    use_rslora: bool = False
    """rsLoRA: scale by sqrt(r)."""
    bits: int = option(16, OneOf((16, 8, 4)))
    """Bits of the frozen weights: 16 (as loaded), 8 (LLM.int8), 4 (NF4, which makes LoRA QLoRA)."""
    quantize: list[Tower] = field(default_factory=lambda: [Tower.language_model])
    """Towers whose linear layers are stored in `bits`; never `lm_head`."""
    double_quant: bool = True
    """Also quantize the scales of NF4."""

    def problems(self, prefix: str) -> Iterator[str]:
        """Yield options that contradict each other."""
        if self.method == PeftMethod.none:
            if self.bits != 16:
                yield (
                    f"{prefix}bits={self.bits}: quantized weights cannot learn themselves; peft=qlora can."
                )
            if self.use_dora or self.use_rslora or self.modules_to_save:
                yield f"{prefix}use_dora, use_rslora and modules_to_save need an adapter: peft=lora."
        elif not self.target_modules:
            yield f"{prefix}target_modules is empty: no layer would get an adapter."
        if self.bits != 16 and not self.quantize:
            yield f"{prefix}bits={self.bits} with {prefix}quantize=[]: name the towers to quantize."

    @property
    def storage(self) -> str:
        """Return the options that say how the frozen weights are stored."""
        if self.bits == 16:
            return "peft.bits=16"
        towers = f" peft.quantize=[{','.join(sorted(self.quantize))}]"
        scales = f" peft.double_quant={str(self.double_quant).lower()}" if self.bits == 4 else ""
        return f"peft.bits={self.bits}{towers}{scales}"

    def quantizes(self, name: str) -> bool:
        """Return whether a linear layer is stored in `bits`, by its full name."""
        return self.bits != 16 and "lm_head" not in name and tower_of(name) in self.quantize
