"""Whether a run keeps what its vision tower makes of images, where, and how much that is."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import torch
from accelerate import PartialState
from datasets import List, Value
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import __version__ as transformers_version

from finetune.assembly.data import Data
from finetune.assembly.model import Learner, half_dtype, half_precision
from finetune.assembly.trainer import divide_run_batch
from finetune.codecs.mask_vae import cache_folder
from finetune.config.schema import RunConfig
from finetune.data.batches.order import count_steps
from finetune.data.examples.dataset import PICTURES, ExampleDataset
from finetune.data.features.store import FeatureStore
from finetune.errors import UserError
from finetune.model.features import describe_features, drops_activations, keep_features, take_images
from finetune.speed import Technique, switched_off

_OPTION = "feature_cache"
_FEW = 10_000_000
"""Parameters of a vision tower below which a pass is as fast as a file."""


@dataclass(frozen=True)
class FeatureCache:
    """The features of a run's images."""

    technique: Technique
    store: FeatureStore | None = None
    """None: nothing is kept or read."""

    def attach(self, examples: ExampleDataset) -> ExampleDataset:
        """Return examples whose images are not decoded if their features are stored."""
        return replace(examples, features=self.store)


def build_feature_cache(config: RunConfig, learner: Learner, data: Data) -> FeatureCache:
    """Decide whether features are kept, and let the model hand them over.

    Args:
        config: `trainer`, `augmentation` and `image` are read.
        learner: changed in place.
        data: its training and validation images are counted.

    Raises:
        UserError: the cache was asked for, and cannot apply.
    """
    asked = config.trainer.speed.feature_cache
    if asked is False:
        return FeatureCache(switched_off(_OPTION))
    if (why := _find_obstacle(learner.model, data)) is not None:
        if asked:
            raise UserError(f"trainer.speed.{_OPTION}=true cannot apply: {why}. Leave it out.")
        return FeatureCache(Technique(_OPTION, False, why))
    if asked is None and (why := _find_reason_against(config, learner.model, data)) is not None:
        return FeatureCache(
            Technique(_OPTION, False, f"{why}; trainer.speed.{_OPTION}=true switches it on")
        )
    store = _open_store(config, learner)
    images = sum(count_images(split) for split in (data.train, data.validation) if split is not None)
    there, free = len(store), _free_bytes(store.folder)
    tokens, width = store.shape
    size = (
        f"at most {_format_bytes(images * store.record_bytes)} ({images:,} images x {tokens:,} tokens x "
        f"{width:,} numbers x {store.dtype.itemsize} bytes; {there:,} images are there) in {store.folder}"
    )
    share = 0.5 if asked else 0.25
    if (images - there) * store.record_bytes > free * share:
        room = f"{size}, where {_format_bytes(free)} are free, of which it takes {share:.0%}"
        return FeatureCache(
            Technique(_OPTION, False, f"no room: {room}; FINETUNE_CACHE names another folder")
        )

    def keep(keys: list[str], features: Tensor) -> None:
        for text, values in zip(keys, features.detach(), strict=True):
            if text:
                key, width, height = text.split()
                store.write(key, values, (int(width), int(height)))

    keep_features(learner.model, keep)
    detail = f"{size}; trainer.speed.{_OPTION}=false switches it off"
    return FeatureCache(Technique(_OPTION, True, detail), store)


def _find_obstacle(model: nn.Module, data: Data) -> str | None:
    """Return why the features of an image are not always the same."""
    tower = take_images(model).vision_tower
    if any(parameter.requires_grad for parameter in tower.parameters()):
        return "the vision tower learns"
    if drops_activations(tower):
        return "dropout changes what the vision tower makes of an image"
    if data.train is not None and data.train.augment is not None:
        return "augmentation changes the images (augmentation=none)"
    return None


def _find_reason_against(config: RunConfig, model: nn.Module, data: Data) -> str | None:
    """Return why features are not worth their room."""
    if PartialState().device.type != "cpu":
        return "a GPU encodes an image about as fast as it is read"
    if sum(parameter.numel() for parameter in take_images(model).vision_tower.parameters()) < _FEW:
        return "the vision tower is small: a pass takes no longer than a file"
    assert data.train is not None, "a training has examples"
    trainer, examples = config.trainer, len(data.train)
    size, accumulation = divide_run_batch(trainer, PartialState().num_processes)
    batch = size * accumulation * PartialState().num_processes
    steps = count_steps(examples, batch, trainer.num_train_epochs, trainer.max_steps)
    return "each image is seen once" if steps * batch <= examples else None


def _open_store(config: RunConfig, learner: Learner) -> FeatureStore:
    """Return the store of all features that the tower would make as it does here."""
    half = half_dtype(config.trainer)
    side = learner.processor.image_processor.size["height"]
    with half_precision(config.trainer):
        shape, dtype = describe_features(learner.model, side)
    inner = take_images(learner.model)
    adapted = any(isinstance(part, BaseTunerLayer) for part in inner.multi_modal_projector.modules())
    if half is not None and dtype == torch.float32 and not adapted:
        dtype = half  # what the projector's own product makes of it first
    about = {
        "tower": digest_tensors(inner.vision_tower.state_dict()),
        "attention": inner.vision_tower.config._attn_implementation,
        "image processor": learner.processor.image_processor.to_json_string(),
        "resize": str(config.image.resize),
        "autocast": str(half),
        "features": f"{dtype} {shape}",
        "device": PartialState().device.type,
        "torch": torch.__version__,
        "transformers": transformers_version,
    }
    key = blake2b(repr(sorted(about.items())).encode(), digest_size=16).hexdigest()
    return FeatureStore(cache_folder() / "features" / key, about, shape, dtype)


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return a digest of names, formats and all values."""
    digest = blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def count_images(examples: ExampleDataset) -> int:
    """Return how many images a split has, at most: a path counts once, however many rows name it."""
    rows, count = examples.rows, 0
    for name in set(PICTURES).intersection(rows.column_names):  # a mixture may have both
        kind = rows.features[name]
        if kind == Value("string"):
            count += len(set(rows[name]) - {None})
        elif kind == List(Value("string")):
            count += len({path for paths in rows[name] for path in paths or ()})
        else:
            count += len(rows) * (len(rows[0][name] or ()) if isinstance(kind, List) else 1)
    return count


def _format_bytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _free_bytes(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
