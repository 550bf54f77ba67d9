"""Whether a job keeps what its vision tower makes of images, where, and how much that is."""

from collections.abc import Mapping
from functools import partial
from hashlib import blake2b

import torch
from accelerate import PartialState
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PaliGemmaProcessor

from finetune.assembly.data import Data
from finetune.assembly.model import half_dtype, half_precision
from finetune.assembly.room import (
    ImageCache,
    count_images,
    describe_resizing,
    find_changes,
    open_room,
    open_store,
)
from finetune.assembly.trainer import divide_run_batch
from finetune.config.schema import RunConfig
from finetune.data.batches.order import count_steps
from finetune.data.examples.dataset import ExampleDataset
from finetune.data.stored.store import ImageStore, keep_images
from finetune.errors import UserError
from finetune.model.features import describe_features, drops_activations, keep_features, take_images
from finetune.speed import Technique, switched_off

_OPTION = "feature_cache"
_FEW = 10_000_000
"""Parameters of a vision tower below which a pass is as fast as a file."""


def build_feature_cache(
    config: RunConfig, model: nn.Module, processor: PaliGemmaProcessor, data: Data
) -> ImageCache:
    """Decide whether features are kept, and let the model hand them over.

    Args:
        config: `trainer`, `augmentation` and `image` are read.
        model: changed in place.
        processor: of the checkpoint.
        data: its images are counted; without a training split the job only evaluates.

    Raises:
        UserError: the cache was asked for, and cannot apply.
    """
    asked = config.trainer.speed.feature_cache
    if asked is False:
        return ImageCache([switched_off(_OPTION)])
    if (why := _find_obstacle(config, model, data.train)) is not None:
        if asked:
            raise UserError(f"trainer.speed.{_OPTION}=true cannot apply: {why}. Leave it out.")
        return ImageCache([Technique(_OPTION, False, why)])
    hint = f"; trainer.speed.{_OPTION}=true switches it on"
    if asked is None and (why := _find_reason_against(config, model, data.train)) is not None:
        return ImageCache([Technique(_OPTION, False, f"{why}{hint}")])
    store = _open_store(config, model, processor)
    if asked is None and data.train is None and not len(store):
        return ImageCache([Technique(_OPTION, False, f"nothing is stored of these weights{hint}")])
    tokens, width = store.shape
    what = f"{tokens:,} tokens x {width:,} numbers x {store.dtype.itemsize} bytes"
    cache = open_room(_OPTION, store, data.splits, what, 0.5 if asked else 0.25)
    if cache.store is not None:
        keep_features(model, partial(_keep, store))
    return cache


def _keep(store: ImageStore, keys: list[str], features: Tensor) -> None:
    keep_images(store, {text: one for text, one in zip(keys, features.detach(), strict=True) if text})


def _find_obstacle(config: RunConfig, model: nn.Module, train: ExampleDataset | None) -> str | None:
    """Return why there are no features of an image that are always the same."""
    if half_dtype(config.trainer) == torch.float16 and PartialState().device.type == "cpu":
        return "trainer.fp16 needs a GPU"
    if train is None:
        return None
    tower = take_images(model).vision_tower
    if any(parameter.requires_grad for parameter in tower.parameters()):
        return "the vision tower learns"
    if drops_activations(tower):
        return "dropout changes what the vision tower makes of an image"
    return find_changes(train)


def _find_reason_against(config: RunConfig, model: nn.Module, train: ExampleDataset | None) -> str | None:
    """Return why features are not worth their room."""
    if PartialState().device.type != "cpu":
        return "a GPU encodes an image about as fast as it is read"
    if sum(parameter.numel() for parameter in take_images(model).vision_tower.parameters()) < _FEW:
        return "the vision tower is small: a pass takes no longer than a file"
    if train is None:
        return None
    trainer = config.trainer
    size, accumulation = divide_run_batch(trainer, PartialState().num_processes)
    batch = size * accumulation * PartialState().num_processes
    steps = count_steps(len(train), batch, trainer.num_train_epochs, trainer.max_steps)
    shown = steps * batch * int(train.count_images().sum()) / len(train)
    return "each image is seen once" if shown <= count_images(train) else None


def _open_store(config: RunConfig, model: nn.Module, processor: PaliGemmaProcessor) -> ImageStore:
    """Return the store of all features that the tower would make as it does here."""
    half = half_dtype(config.trainer)
    with half_precision(config.trainer):
        shape, dtype = describe_features(model, processor.image_processor.size["height"])
    inner = take_images(model)
    adapted = any(isinstance(part, BaseTunerLayer) for part in inner.multi_modal_projector.modules())
    if half is not None and dtype == torch.float32 and not adapted:
        dtype = half  # what the projector's own product makes of it first
    tower = inner.vision_tower
    about = {
        "tower": digest_tensors(tower.state_dict()),
        "config": tower.config.to_json_string(),
        "attention": tower.config._attn_implementation,
        **describe_resizing(config, processor),
        "autocast": str(half),
        "features": f"{dtype} {shape}",
        "device": PartialState().device.type,
        "torch": torch.__version__,
    }
    # What an adapter's output is multiplied by is no tensor of it.
    if scaling := _list_scaling(tower):
        about["adapter scaling"] = repr(scaling)
    return open_store("features", about, shape, dtype)


def _list_scaling(tower: nn.Module) -> list[tuple[str, object]]:
    layers = ((name, layer) for name, layer in tower.named_modules() if isinstance(layer, LoraLayer))
    return [(name, layer.scaling) for name, layer in layers]


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return a digest of names, formats and all values."""
    digest = blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
