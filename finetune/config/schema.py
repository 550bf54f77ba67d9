"""Every option of every command, its type, its default and its meaning.

The string under a field is the only place where that option is documented: `JOB --help` prints it.
Groups of options that go together live in `conf/`, complete runs in `recipes/`. The groups whose options
differ from choice to choice (dataset, task, metric) have their schemas in `choices.py`.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from omegaconf import MISSING

from finetune.config.images import ImageConfig
from finetune.option import BELOW_ONE, COUNT, RATE, SHARE, OneOf, Range, option


class Dtype(StrEnum):
    """Floating-point formats of the weights."""

    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


class LearningDtype(StrEnum):
    """Floating-point formats of what learns."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class Attention(StrEnum):
    """Attention kernels that apply PaliGemma's prefix mask."""

    auto = "auto"
    sdpa = "sdpa"
    eager = "eager"


class Learning(StrEnum):
    """What of a tower may learn."""

    all = "all"
    attention = "attention"
    none = "none"


class Tower(StrEnum):
    """PaliGemma's three parts, under their names in transformers."""

    vision_tower = "vision_tower"
    multi_modal_projector = "multi_modal_projector"
    language_model = "language_model"


class PeftMethod(StrEnum):
    """How the chosen towers learn."""

    none = "none"
    lora = "lora"


class Overflow(StrEnum):
    """What happens to an example whose text is longer than the budget."""

    error = "error"
    drop = "drop"
    shorten_prefix = "shorten_prefix"


class SuffixChoice(StrEnum):
    """Which of several accepted suffixes is trained on."""

    first = "first"
    random = "random"
    cycle = "cycle"


class LossAverage(StrEnum):
    """What weighs the same in the loss."""

    example = "example"
    token = "token"


class Strategy(StrEnum):
    """When something happens during training."""

    no = "no"
    steps = "steps"
    epoch = "epoch"


@dataclass
class ModelConfig:
    """The checkpoint and how it is read."""

    path: str = MISSING
    """Hub id or folder of a PaliGemma 1 or 2 checkpoint; `tiny` is the base shipped with the package."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    resolution: int | None = option(None, Range(1, 8192))
    """Picture side in pixels (224, 448, 896); checked against the checkpoint. Null: whatever it has."""
    dtype: Dtype = Dtype.bfloat16
    """Format of the frozen weights; what learns has its own, `learning_dtype`."""
    learning_dtype: LearningDtype = LearningDtype.float32
    """Format of what learns: the weights themselves, adapters, `peft.modules_to_save`. In bfloat16 an
    update smaller than 1/256 of a weight vanishes: at small learning rates hardly any weight moves."""
    attention: Attention = Attention.auto
    """`auto`: sdpa for PaliGemma 1; eager for PaliGemma 2, whose attention soft-cap sdpa cannot compute.
    Flash attention ignores the prefix mask, so that a suffix would see its own answer: it is refused."""
    final_logit_softcap: bool = False
    """Keep PaliGemma 2's soft-cap on the logits. The published transfers were trained without it."""
    llm_dropout: float = option(0.0, BELOW_ONE)
    """Share of the outputs of Gemma's attention and MLP layers that is dropped in training, as some of the
    published transfers do."""


@dataclass
class AugmentationConfig:
    """Pictures changed at random while training; boxes, masks and the picture's size follow.

    Texts do not: a crop may cut away what a caption, a question or a document speaks of, a flip mirrors
    writing, and other colours may make an answer wrong.
    """

    flip: float = option(0.0, SHARE)
    """Probability of a mirrored picture. A row whose text or labels name sides (`flip_words`) is never
    mirrored; writing in the picture is."""
    flip_words: list[str] | None = None
    """Words that name sides: those in ASCII as whole words, others anywhere in the text. Null: English ones
    such as left, right, leftmost, clockwise; captions in another language need their own."""
    crop: float = option(1.0, Range(0, 1, above_least=True))
    """Smallest share of the area that a random crop keeps, of a ratio of sides up to 4/3 either way from
    the picture's; 1: no crop. A risk for captions, questions and documents: what they speak of may be
    cut away."""
    min_visible: float = option(0.3, SHARE)
    """Objects of whose box less than this share is still seen are left out of the answer; where nothing
    asked for would be left, another crop is drawn, and after ten there is none."""
    resize: list[float] = option([1.0, 1.0], Range(0, 100, above_least=True))
    """Smallest and largest scale of the picture within its own size: below 1 it lies on grey, above 1 it
    is cropped."""
    brightness: float = option(0.0, SHARE)
    """Largest change as a share, either way: 0.2 draws a factor between 0.8 and 1.2."""
    contrast: float = option(0.0, SHARE)
    """Likewise."""
    saturation: float = option(0.0, SHARE)
    """Likewise."""


@dataclass
class CollatorConfig:
    """From examples to a batch."""

    max_text_length: int = option(128, Range(4, 1e6))
    """Tokens for BOS, prefix, newline, suffix and EOS together; image tokens come on top."""
    overflow: Overflow = Overflow.error
    """Text over the budget: `error` names the example; `drop` leaves out the suffixes that do not fit, and
    an example without any that does; `shorten_prefix` cuts the end of the prefix, and leaves out suffixes
    that are too long on their own. What is left out is counted and listed in `skipped.jsonl`. Image
    tokens, suffix and EOS are never cut."""
    suffix_choice: SuffixChoice = SuffixChoice.cycle
    """Of several accepted suffixes: the `first`, a `random` one each epoch, or each in turn, without
    replacement, over the epochs (`cycle`, the paper's way)."""


@dataclass
class FreezeConfig:
    """Which parameters may learn. With an adapter: which get one."""

    vision_tower: Learning = Learning.all
    """SigLIP: all of it, its attention layers, or nothing."""
    multi_modal_projector: Learning = Learning.all
    """The linear layer from SigLIP to Gemma: `all` or `none`."""
    language_model: Learning = Learning.all
    """Gemma: all of it (with the embeddings), its attention layers, or nothing."""
    last_n: int | None = option(None, Range(1, 1e4))
    """Only the last n layers of the language model learn."""


@dataclass
class PeftConfig:
    """How the chosen towers learn."""

    method: PeftMethod = PeftMethod.none
    """`none`: the weights themselves learn. `lora`: low-rank adapters beside frozen weights."""
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
    SigLIP names its own `out_proj`, `fc1`, `fc2`; the projector's is `linear`."""
    modules_to_save: list[str] = field(default_factory=list)
    """Modules that learn in full beside the adapters, such as `multi_modal_projector`."""
    use_dora: bool = False
    """DoRA: magnitude and direction are learnt apart."""
    use_rslora: bool = False
    """rsLoRA: scale by sqrt(r)."""
    bits: int = option(16, OneOf((16, 8, 4)))
    """Bits of the frozen weights: 16 (as loaded), 8 (LLM.int8), 4 (NF4, which makes LoRA QLoRA)."""
    quantize: list[Tower] = field(default_factory=lambda: [Tower.language_model])
    """Towers whose linear layers are stored in `bits`. `lm_head` never is."""
    double_quant: bool = True
    """Quantise NF4's own scales too."""


@dataclass
class LossConfig:
    """The loss over suffix and EOS."""

    average: LossAverage = LossAverage.example
    """`example`: mean over an example's tokens, then over examples (the paper).
    `token`: mean over all tokens."""
    label_smoothing: float = option(0.0, BELOW_ONE)
    """The paper's: the target keeps 1 - e, every other entry of the vocabulary gets e / (V - 1)."""


@dataclass
class TowerOptimizer:
    """Exceptions for one tower."""

    learning_rate: float | None = option(None, RATE)
    """Null: `trainer.learning_rate`."""
    weight_decay: float | None = None
    """Null: `trainer.weight_decay`."""


@dataclass
class TowerOptimizers:
    """Exceptions by tower."""

    vision_tower: TowerOptimizer = field(default_factory=TowerOptimizer)
    multi_modal_projector: TowerOptimizer = field(default_factory=TowerOptimizer)
    language_model: TowerOptimizer = field(default_factory=TowerOptimizer)


@dataclass
class TrainerConfig:
    """transformers.TrainingArguments under their own names, and what it has no field for."""

    num_train_epochs: float = option(3.0, Range(0, 1e6, above_least=True))
    """Passes over the training split; the number of steps is round(epochs * examples / batch)."""
    max_steps: int = option(-1, Range(-1))
    """Optimiser steps; overrides the epochs where positive."""
    global_batch_size: int | None = option(None, COUNT)
    """Examples of one optimiser step over all devices, the same on one as on many. Null: what the next two
    and the number of devices make."""
    per_device_train_batch_size: int = option(8, COUNT)
    """Examples in one forward pass on one device, at most."""
    gradient_accumulation_steps: int = option(1, COUNT)
    """Forward passes in one optimiser step; follows from `global_batch_size` where that is given."""
    limit: int | None = option(None, COUNT)
    """Train on the first n rows only; of a mixture on as many of each part."""
    learning_rate: float = option(1e-5, RATE)
    """Peak learning rate."""
    lr_scheduler_type: str = "cosine"
    """After the warm-up: cosine, linear, constant_with_warmup or any other name of transformers."""
    warmup_steps: float = 0.05
    """Linear warm-up: a share of all steps below 1, a number of steps from 1 on."""
    optim: str = "adamw_torch"
    """adamw_torch, adamw_torch_fused, paged_adamw_8bit, sgd, or any other name of transformers."""
    weight_decay: float = 0.0
    """AdamW's, on matrices of base weights and adapters; never on norms, biases and SigLIP's positions.
    big_vision's own value is this one times the learning rate."""
    adam_beta1: float = option(0.9, BELOW_ONE)
    """Decay of the mean of the gradients."""
    adam_beta2: float = option(0.999, BELOW_ONE)
    """Decay of the mean of their squares."""
    adam_epsilon: float = option(1e-8, Range(0, 1, above_least=True))
    """Added to the denominator."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm; 0 switches it off."""
    bf16: bool = True
    """Compute in bfloat16 under autocast."""
    fp16: bool = False
    """Compute in float16 under autocast, for GPUs without bfloat16."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    logging_steps: int = option(10, COUNT)
    """Steps between two log lines."""
    save_steps: int | None = option(None, COUNT)
    """Steps between two checkpoints. Null: one at the end of each epoch."""
    save_total_limit: int | None = option(2, COUNT)
    """Checkpoints that are kept, the best one besides."""
    dataloader_num_workers: int = option(4, Range(0, 1024))
    """Processes that decode pictures and make batches; 0 does it in the training process."""
    dataloader_prefetch_factor: int | None = option(None, Range(1, 1e6))
    """Batches that each of them prepares ahead."""
    loss: LossConfig = field(default_factory=LossConfig)
    towers: TowerOptimizers = field(default_factory=TowerOptimizers)
    extra: dict[str, Any] = field(default_factory=dict)
    """Any other field of transformers.TrainingArguments, such as `+trainer.extra.torch_compile=true`."""


@dataclass
class EvaluationConfig:
    """Generation and scores over the validation split."""

    strategy: Strategy = Strategy.no
    """During training: `no`, every `steps`, or each `epoch`. The finished model is always evaluated."""
    steps: int | None = option(None, COUNT)
    """Steps between two evaluations under `strategy=steps`."""
    limit: int | None = option(None, COUNT)
    """Evaluate only the first n examples; of a mixture as many of each part."""
    batch_size: int = option(16, Range(1, 1e6))
    """Examples generated at once on one device."""
    max_new_tokens: int | None = option(None, Range(1, 1e6))
    """Longest answer in tokens, EOS among them. Null: a quarter more than the longest reference of both
    splits, at least 16; `predict` without a run: 128."""
    num_beams: int = option(1, Range(1, 1e4))
    """1 is greedy; more is beam search without length normalisation, as in the paper."""
    pictures: int = option(10, Range(0, 1e6))
    """Predictions that are drawn into the run's `pictures/`, where answers name places."""
    loss: bool = True
    """Also compute the loss over the first accepted suffix."""
    metric_for_best_model: str | None = None
    """Field of the evaluation, such as `vqa_accuracy`, `confidence` or `loss`, by which the best
    checkpoint is chosen. Null: the last one is the result."""
    early_stopping_patience: int | None = option(None, COUNT)
    """Stop after this many evaluations without improvement."""


@dataclass
class TrackerConfig:
    """Where the curves are sent beside the run's folder."""

    report_to: str = "none"
    """`none` or `wandb`."""
    project: str = "paligemma"
    """The project's name there."""
    mode: str | None = None
    """wandb's online, offline or disabled; null leaves it to WANDB_MODE."""


SPELLINGS = {"image": "picture"}
"""Words of the command line for fields of another name: `image=FILE`, for `image.resize` has the name."""


@dataclass
class RunConfig:
    """A run: what a recipe may hold, and what a run's `config.yaml` does hold."""

    runs_dir: str = "runs"
    """Folder of the runs."""
    seed: int = option(0, Range(0, 2**32 - 1))
    """Seed of the order of the data, its augmentation, the choice of suffixes, the adapters and dropout."""
    check_images: bool = False
    """Decode every image of the data beforehand, and report those that cannot be."""
    adapter: str | None = None
    """Hub id or folder of an adapter for `model`: `train` goes on with it, `evaluate` and `predict` use it.
    A run's is in its folder: runs/NAME/adapter."""
    model: ModelConfig = field(default_factory=ModelConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    dataset: Any = MISSING
    task: Any = MISSING
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    collator: CollatorConfig = field(default_factory=CollatorConfig)
    freeze: FreezeConfig = field(default_factory=FreezeConfig)
    peft: PeftConfig = field(default_factory=PeftConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    metric: Any = MISSING
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
