from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PaliGemmaProcessor

from finetune.data.batches.collator import Collator
from finetune.data.batches.resize import resize_as_paper
from finetune.errors import UserError
from finetune.example import IGNORED, Example
from finetune.model.features import spread_pixels
from tests.conftest import labelled_inputs

MakeExample = Callable[..., Example]


@pytest.mark.parametrize(
    ("prefix", "suffix"),
    [
        pytest.param("caption en", "a red circle", id="caption"),
        pytest.param("answer en what is this?", "7", id="question"),
        pytest.param("detect cat ; dog", "<loc0010><loc0020><loc0300><loc1023> cat", id="boxes"),
        pytest.param("", "x", id="empty-prefix"),
        pytest.param("caption en", "", id="empty-suffix"),
        pytest.param("beschreibe Ärger 图片 🙂", "ünï", id="other-scripts"),
        pytest.param("  two  spaces ", " leading", id="spaces"),
    ],
)
def test_a_batch_of_one_equals_the_processors(
    processor: PaliGemmaProcessor, make_example: MakeExample, prefix: str, suffix: str
) -> None:
    example = make_example(suffix, prefix)
    ours = Collator(processor)([example])
    theirs = processor(
        images=list(example.images), text="<image>" + prefix, suffix=suffix, return_tensors="pt"
    )
    for name, values in labelled_inputs(ours).items():
        assert torch.equal(values, theirs[name]), name


def test_the_newline_is_a_token_of_its_own_after_a_prefix_that_ends_in_one(
    processor: PaliGemmaProcessor, make_example: MakeExample
) -> None:
    collator = Collator(processor)
    before, _ = collator.encode(make_example(prefix="caption en\n"))
    assert before[-2:] == collator.newline * 2


def test_the_sequence_is_image_bos_prefix_newline_suffix_eos(
    processor: PaliGemmaProcessor, make_example: MakeExample
) -> None:
    tokenizer = processor.tokenizer
    ids = Collator(processor)([make_example("a", "b")])["input_ids"][0].tolist()
    words = tokenizer.convert_ids_to_tokens(ids)
    assert words == ["<image>"] * 64 + ["<bos>", "b", "\n", "a", "<eos>"]


def test_types_and_labels_part_at_the_newline_and_pads_are_masked(
    processor: PaliGemmaProcessor, make_example: MakeExample
) -> None:
    batch = Collator(processor)([make_example("a", "b"), make_example("a b c d e f", "b")])
    short = 64 + 3 + 2
    assert batch["token_type_ids"][0, : 64 + 3].eq(0).all()
    assert batch["token_type_ids"][0, 64 + 3 :].eq(1).all()
    assert batch["attention_mask"][0].tolist() == [1] * short + [0] * (batch["input_ids"].shape[1] - short)
    supervised = batch["labels"] != IGNORED
    assert supervised[0].nonzero()[:, 0].tolist() == [67, 68]
    assert torch.equal(batch["labels"][supervised], batch["input_ids"][supervised])


def test_each_supervised_token_knows_its_position_its_id_and_its_example(
    processor: PaliGemmaProcessor, make_example: MakeExample
) -> None:
    batch = Collator(processor)([make_example("a", "b", id="one"), make_example("a b c", "b", id="two")])
    assert batch["ids"] == ["one", "two"]
    tokens = [
        Collator(processor).encode(make_example(suffix, "b")).suffixes[0] for suffix in ("a", "a b c")
    ]
    assert batch["targets"].tolist() == tokens[0] + tokens[1]
    assert batch["segments"].tolist() == [0] * len(tokens[0]) + [1] * len(tokens[1])
    columns = batch["columns"].flatten()[batch["places"]]
    assert batch["labels"][batch["segments"], columns + 1].tolist() == batch["targets"].tolist()
    assert len(columns) == (batch["labels"] != IGNORED).sum()


def test_prompts_are_padded_on_the_left(processor: PaliGemmaProcessor, make_example: MakeExample) -> None:
    examples = [make_example(prefix="b"), make_example(prefix="a longer question about this")]
    batch = Collator(processor).build_prompts(examples)
    assert batch["input_ids"][:, -1].tolist() == Collator(processor).newline * 2
    first_real = batch["attention_mask"][0].argmax()
    assert batch["attention_mask"][0, first_real:].eq(1).all()
    assert batch["input_ids"][0, :first_real].eq(processor.tokenizer.pad_token_id).all()


def test_several_pictures_stand_before_the_text_in_order(
    processor: PaliGemmaProcessor, make_example: MakeExample
) -> None:
    one, two = make_example(seed=1), make_example(seed=2)
    both = replace(one, images=one.images + two.images)
    batch = Collator(processor)([both, one])
    assert (batch["input_ids"] == processor.image_token_id).sum(1).tolist() == [128, 64]
    assert batch["pixel_values"].shape == (2, 3, 56, 56)
    assert batch["image_rows"].tolist() == [0, 1, 0]


def test_a_text_over_the_budget_is_an_error_that_names_the_example(
    processor: PaliGemmaProcessor, make_example: MakeExample
) -> None:
    example = make_example("yes", "answer en is there a red circle in the picture?", id="row-7")
    needed = Collator(processor).count_text_tokens(example.prefix, "yes")
    Collator(processor, max_text_length=needed).encode(example)
    with pytest.raises(UserError, match=rf"`row-7` needs {needed} text tokens, but.*={needed - 1}"):
        Collator(processor, max_text_length=needed - 1).encode(example)


def test_shortening_cuts_the_prefix_and_keeps_image_newline_suffix_and_eos(
    processor: PaliGemmaProcessor, make_example: MakeExample
) -> None:
    example = make_example("a red circle", "answer en is there a red circle in the picture?")
    whole, [after] = Collator(processor).encode(example)
    budget = len(whole) - 64 + len(after) - 3
    collator = Collator(processor, max_text_length=budget, shorten_prefix=True)
    before, [same_after] = collator.encode(example)
    assert same_after == after
    assert before == whole[:-4] + collator.newline
    assert len(before) - 64 + len(after) == budget


def test_a_suffix_that_alone_is_over_the_budget_is_an_error_even_when_shortening(
    processor: PaliGemmaProcessor, make_example: MakeExample
) -> None:
    collator = Collator(processor, max_text_length=5, shorten_prefix=True)
    with pytest.raises(UserError, match="text tokens, but collator.max_text_length=5"):
        collator.encode(make_example("a red circle and a blue square"))


@pytest.mark.parametrize("token", ["<image>", "<eos>", "<bos>", "<pad>"])
@pytest.mark.parametrize("place", ["prefix", "suffix"])
def test_reserved_tokens_in_a_text_are_refused(
    processor: PaliGemmaProcessor, make_example: MakeExample, token: str, place: str
) -> None:
    texts = {"prefix": "caption", "suffix": "x", place: f"a {token} b"}
    with pytest.raises(UserError, match=f"reserved token {token}"):
        Collator(processor).encode(make_example(texts["suffix"], texts["prefix"]))


ANSWERS = ("a", "b", "c", "d")


def test_cycling_uses_every_suffix_once_before_any_again(
    processor: PaliGemmaProcessor, make_example: MakeExample
) -> None:
    collator = Collator(processor, suffix_choice="cycle", seed=3)
    chosen = [collator.choose_suffix(make_example(ANSWERS, epoch=epoch)) for epoch in range(8)]
    assert sorted(chosen[:4]) == sorted(chosen[4:]) == list(ANSWERS)


def test_cycling_starts_differently_for_different_examples(
    processor: PaliGemmaProcessor, make_example: MakeExample
) -> None:
    collator = Collator(processor, suffix_choice="cycle")
    first = {collator.choose_suffix(make_example(ANSWERS, id=str(i))) for i in range(40)}
    assert first == set(ANSWERS)


@pytest.mark.parametrize("choice", ["random", "cycle"])
def test_the_choice_depends_on_seed_epoch_and_id_alone(
    processor: PaliGemmaProcessor, make_example: MakeExample, choice: str
) -> None:
    def draw(seed: int) -> list[str]:
        collator = Collator(processor, suffix_choice=choice, seed=seed)
        return [
            collator.choose_suffix(make_example(ANSWERS, id=str(i), epoch=e))
            for i in range(10)
            for e in range(4)
        ]

    first = draw(0)
    torch.manual_seed(99)
    assert draw(0) == first
    assert draw(1) != first
    assert set(first) == set(ANSWERS)


def test_first_is_always_the_first(processor: PaliGemmaProcessor, make_example: MakeExample) -> None:
    collator = Collator(processor, suffix_choice="first")
    assert {collator.choose_suffix(make_example(ANSWERS, epoch=e)) for e in range(5)} == {"a"}


def test_images_are_resized_by_the_kernel_that_was_chosen(
    processor: PaliGemmaProcessor, make_example: MakeExample
) -> None:
    def pixels(resize: str, *examples: Example) -> torch.Tensor:
        return spread_pixels(Collator(processor, resize=resize).build_pixels(examples))

    def scale(image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.asarray(image, dtype=np.float32)).movedim(2, 0) / 127.5 - 1

    smooth = make_example()
    (image,) = smooth.images
    large = image.resize((120, 90), Image.Resampling.NEAREST)
    smooth, sharp = (replace(smooth, images=(large,), antialias=antialias) for antialias in (True, False))
    expected = {
        "bicubic": [large.resize((56, 56), Image.Resampling.BICUBIC)] * 2,
        "bilinear": [large.resize((56, 56), Image.Resampling.BILINEAR)] * 2,
        "paper": [resize_as_paper(large, (56, 56), antialias) for antialias in (True, False)],
    }
    for resize, images in expected.items():
        assert torch.allclose(pixels(resize, smooth, sharp), torch.stack([scale(one) for one in images]))
    assert torch.equal(spread_pixels(Collator(processor).build_pixels([smooth])), pixels("bicubic", smooth))


@pytest.mark.parametrize("choice", ["first", "random", "cycle"])
@pytest.mark.parametrize("shorten", [True, False])
def test_a_suffix_that_does_not_fit_is_left_out_alone(
    processor: PaliGemmaProcessor, make_example: MakeExample, choice: str, shorten: bool
) -> None:
    answers = ("a circle that is red and large and round", "a", "b", "c")
    prefix = "answer en what is shown?"
    longest = Collator(processor).count_text_tokens("" if shorten else prefix, answers[0])
    collator = Collator(
        processor, max_text_length=longest - 1, shorten_prefix=shorten, suffix_choice=choice, seed=3
    )
    without = Collator(processor, suffix_choice=choice, seed=3)
    for epoch in range(9):
        suffix = collator.encode(make_example(answers, prefix, epoch=epoch))[1]
        assert suffix == without.encode(make_example(answers[1:], prefix, epoch=epoch))[1]


def test_an_example_without_a_suffix_cannot_be_trained_on(
    processor: PaliGemmaProcessor, make_example: MakeExample
) -> None:
    with pytest.raises(UserError, match="`one` has no suffix"):
        Collator(processor)([make_example(())])
