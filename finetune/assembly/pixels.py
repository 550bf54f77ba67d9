"""How a run reads and resizes its images."""

from finetune.config.datasets import MixtureDataset
from finetune.config.schema import RunConfig
from finetune.data.batches.options import Resize
from finetune.data.batches.resize import is_antialiased


def choose_antialias(config: RunConfig, split: str) -> dict[str, bool] | None:
    """Return how big_vision resizes the images of each part, under `""` if there is one source.

    Returns:
        None unless `image.resize=paper`.
    """
    if config.image.resize != Resize.paper:
        return None
    sources = {"": config.dataset}
    if isinstance(config.dataset, MixtureDataset):
        sources = {name: part["source"] for name, part in config.dataset.parts.items()}
    return {
        name: is_antialiased(getattr(source, "release", None), split) for name, source in sources.items()
    }
