import pytest
import torch

from finetune.model.load import build_meta_model
from finetune.model.published import published_config
from finetune.model.table import count_parameters


@pytest.mark.parametrize(
    ("name", "parameters", "resolution"),
    [
        ("google/paligemma-3b-pt-224", 2_923_466_480, 224),
        ("google/paligemma-3b-mix-448", 2_924_351_216, 448),
        ("google/paligemma2-3b-pt-224", 3_032_242_416, 224),
        ("google/paligemma2-10b-pt-896", None, 896),
        ("google/paligemma2-28b-pt-224", None, 224),
    ],
)
def test_published_architectures_have_the_published_size(
    name: str, parameters: int | None, resolution: int
) -> None:
    config = published_config(name)
    assert config is not None
    assert config.vision_config.image_size == resolution
    counts = count_parameters(build_meta_model(config, torch.bfloat16))
    total = sum(count.parameters for count in counts.values())
    if parameters is not None:
        assert total == parameters
    else:
        size = {"10b": 9.7e9, "28b": 27.7e9}[name.split("-")[1]]
        assert total == pytest.approx(size, rel=0.02)


@pytest.mark.parametrize(
    "name", ["google/paligemma-10b-pt-224", "google/gemma-2b", "me/paligemma-3b-pt-224"]
)
def test_other_names_are_unknown(name: str) -> None:
    assert published_config(name) is None
