import pytest
from transformers import PaliGemmaProcessor

from finetune.assembly.data import build_collators
from finetune.assembly.pixels import choose_antialias
from finetune.config.compose import compose
from finetune.model.load import load_processor


@pytest.mark.parametrize(
    ("words", "train", "validation"),
    [
        (["recipe=vqav2_full"], True, True),
        (["recipe=vizwiz_qlora"], True, False),
        (["recipe=cococap_full"], False, False),
        (["recipe=refcoco_seg_full"], False, False),
        (["recipe=quickstart"], True, True),
    ],
)
def test_the_paper_antialiases_by_benchmark_and_split(
    words: list[str], train: bool, validation: bool
) -> None:
    config = compose([*words, "image.resize=paper"])
    assert choose_antialias(config, "train") == {"": train}
    assert choose_antialias(config, "validation") == {"": validation}
    assert choose_antialias(compose([*words, "image.resize=bilinear"]), "train") is None
    assert choose_antialias(compose(words), "train") is None


def test_each_part_of_a_mixture_is_resized_in_its_own_way() -> None:
    words = ["+dataset@dataset.parts.photos.source=pope", "+task@dataset.parts.photos.task=vqa"]
    config = compose(["recipe=mixture_qlora", *words, "image.resize=paper"])
    assert choose_antialias(config, "validation") == {"own": True, "vqa": True, "photos": False}


@pytest.mark.parametrize(("resize", "resample"), [("bicubic", 3), ("bilinear", 2), ("paper", 2)])
def test_the_processor_that_is_saved_resizes_alike(resize: str, resample: int) -> None:
    processor: PaliGemmaProcessor = load_processor("tiny")
    collators = build_collators(compose(["recipe=quickstart", f"image.resize={resize}"]), processor)
    assert processor.image_processor.resample == resample
    assert {collator.resize for collator in collators} == {resize}
