"""How a run reads and resizes its images."""

from finetune.assembly.sources import build_source
from finetune.config.schema import RunConfig
from finetune.data.batches.options import Resize
from finetune.data.batches.resize import is_antialiased


def choose_antialias(config: RunConfig, split: str) -> dict[str, bool] | None:
    """Return whether big_vision antialiases the images of each part, under `""` for a single source.

    Returns:
        None unless `image.resize=paper`.
    """
    if config.image.resize != Resize.paper:
        return None
    # A property of the benchmark, not of the run: the parts of a mixture may differ.
    source = build_source(config.dataset)
    sources = {name: part.source for name, part in source.mixed_parts().items()} or {"": source}
    return {name: is_antialiased(source.benchmark, split) for name, source in sources.items()}
