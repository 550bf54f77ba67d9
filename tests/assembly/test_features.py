"""Stored features are what the vision tower would make, in whole runs and in single batches."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.assembly import features as decisions
from finetune.assembly import room
from finetune.assembly.features import build_feature_cache
from finetune.assembly.room import count_images
from finetune.config.compose import compose
from finetune.data.batches.collator import Collator
from finetune.data.examples.augment import Augmentation
from finetune.data.examples.dataset import ExampleDataset
from finetune.data.examples.options import AugmentationConfig
from finetune.data.images import Picture
from finetune.data.shipped.digits import load_digits
from finetune.data.stored.store import make_key
from finetune.errors import UserError
from finetune.example import Batch
from finetune.generation.generate import generate_tokens
from finetune.generation.options import GenerationOptions
from finetune.model.forward import compute_losses
from finetune.model.surgery import operate
from finetune.speed import SpeedOptions
from finetune.tasks.text import TextTask
from tests.assembly.conftest import data_of
from tests.conftest import noise_image

Build = Callable[..., PaliGemmaForConditionalGeneration]
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def frozen(random_model: Build) -> PaliGemmaForConditionalGeneration:
    return random_model().requires_grad_(False)


@pytest.fixture(scope="module")
def digits() -> ExampleDataset:
    return ExampleDataset(
        load_digits(56).train.select(range(6)), TextTask("{question}", "answers"), "train"
    )


def decide(model: nn.Module, processor: PaliGemmaProcessor, examples: ExampleDataset, *words: str) -> Any:
    config = compose(["recipe=quickstart", "trainer.bf16=false", *words])
    return build_feature_cache(config, model, processor, data_of(examples, Collator(processor)))


def run(model: nn.Module, batch: Batch, half: bool) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        losses = compute_losses(model, batch)
    torch.autograd.backward(losses.mean())
    return losses.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_the_same_adapter_with_another_scaling_has_other_features(
    random_model: Build, processor: PaliGemmaProcessor, digits: ExampleDataset
) -> None:
    def find_folder(alpha: int) -> Path:
        torch.manual_seed(0)
        config = LoraConfig(target_modules=["fc1"], lora_alpha=alpha, init_lora_weights=False)
        model = get_peft_model(random_model(), config).requires_grad_(False)
        found: Path = decide(model, processor, digits, "trainer.speed.feature_cache=true").store.folder
        return found

    assert find_folder(8) == find_folder(8) != find_folder(16)


@pytest.mark.parametrize("backbone", ["gemma", "gemma2"])
@pytest.mark.parametrize(
    ("half", "weights"),
    [
        pytest.param(False, torch.float32, id="float32"),
        pytest.param(True, torch.float32, id="float32-autocast"),
        pytest.param(True, torch.bfloat16, id="bfloat16-autocast"),
    ],
)
@pytest.mark.parametrize("method", ["full", "lora", "projector"])
def test_losses_and_gradients_with_stored_features_are_equal_bit_for_bit(
    random_model: Build,
    processor: PaliGemmaProcessor,
    digits: ExampleDataset,
    backbone: str,
    half: bool,
    weights: torch.dtype,
    method: str,
) -> None:
    base = random_model(backbone, num_layers=1).to(weights)
    base.model.vision_tower.requires_grad_(False)
    targets = r".*language_model.*_proj" + (
        "|.*multi_modal_projector.linear" if method == "projector" else ""
    )
    adapter = LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
    model = (base if method == "full" else get_peft_model(base, adapter)).train()
    operate(model, SpeedOptions(), autocast=half)
    words = ("trainer.speed.feature_cache=true", f"trainer.bf16={str(half).lower()}")
    decided = decide(model, processor, digits, *words)
    assert decided.techniques[0].is_on
    examples, collator = decided.attach(digits), Collator(processor)
    plain = collator([digits[index] for index in range(6)])
    expected, slow = run(model, plain, half)
    first = collator([examples[index] for index in range(6)])
    assert "features" not in first
    assert torch.equal(run(model, first, half)[0], expected)
    stored = collator([examples[index] for index in range(6)])
    assert len(stored["pixel_values"]) == 0
    losses, fast = run(model, stored, half)
    assert torch.equal(losses, expected)
    assert slow
    assert fast.keys() == slow.keys()
    assert all(torch.equal(fast[name], gradient) for name, gradient in slow.items())


def test_batches_of_stored_and_new_images_keep_their_order(
    random_model: Build, processor: PaliGemmaProcessor, digits: ExampleDataset
) -> None:
    model = random_model().eval()
    model.model.vision_tower.requires_grad_(False)
    examples = decide(model, processor, digits, "trainer.speed.feature_cache=true").attach(digits)
    collator = Collator(processor)
    order = [4, 1, 0, 4, 3, 1]
    expected = compute_losses(model, collator([digits[index] for index in order]))
    compute_losses(model, collator([examples[index] for index in (1, 3)]))
    mixed = collator([examples[index] for index in order])
    assert (len(mixed["pixel_values"]), len(mixed["features"])) == (2, 2)
    assert torch.allclose(compute_losses(model, mixed), expected, rtol=1e-6)
    prompts, plain = (collator.build_prompts([rows[i] for i in order]) for rows in (examples, digits))
    options = GenerationOptions(max_new_tokens=4)
    tokens, others = (
        generate_tokens(model, given, processor.tokenizer, options)[0] for given in (prompts, plain)
    )
    assert len(prompts["pixel_values"]) == 0
    assert torch.equal(tokens, others)


def test_stored_images_are_not_decoded(
    random_model: Build,
    processor: PaliGemmaProcessor,
    digits: ExampleDataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = random_model().eval()
    model.model.vision_tower.requires_grad_(False)
    examples = decide(model, processor, digits, "trainer.speed.feature_cache=true").attach(digits)
    compute_losses(model, Collator(processor)([examples[0]]))
    whole = digits[0]
    monkeypatch.setattr(Picture, "load", lambda *_: pytest.fail("decoded"))
    stored = examples[0]
    assert (stored.images, stored.prefix, stored.suffixes) == ((), whole.prefix, whole.suffixes)
    assert stored.target == whole.target


def test_other_weights_sizes_and_formats_have_other_features(
    random_model: Build, processor: PaliGemmaProcessor, digits: ExampleDataset
) -> None:
    def folder(model: nn.Module, *words: str) -> Path:
        model.requires_grad_(False)
        store = decide(model, processor, digits, "trainer.speed.feature_cache=true", *words).store
        assert store is not None
        return Path(store.folder)

    changed = random_model()
    next(changed.model.vision_tower.parameters()).data.view(-1)[1234] += 1e-3
    normed = random_model()
    normed.config.vision_config.layer_norm_eps = 1e-3
    folders = [
        folder(random_model()),
        folder(changed),
        folder(random_model().bfloat16()),
        folder(random_model(), "trainer.bf16=true"),
        folder(random_model(), "image.resize=paper"),
        folder(normed),
    ]
    assert folder(random_model()) == folder(random_model("gemma2")) == folders[0]
    assert len(set(folders)) == len(folders)


@pytest.mark.parametrize(
    ("words", "change", "why"),
    [
        pytest.param([], "learns", "the vision tower learns", id="learning"),
        pytest.param(["trainer.fp16=true"], "", "trainer.fp16 needs a GPU", id="fp16-without-a-gpu"),
        pytest.param([], "augments", r"augmentation changes the images", id="augmentation"),
    ],
)
def test_what_changes_features_switches_them_off_and_refuses_to_be_asked(
    random_model: Build,
    processor: PaliGemmaProcessor,
    digits: ExampleDataset,
    words: list[str],
    change: str,
    why: str,
) -> None:
    model = random_model()
    model.model.vision_tower.requires_grad_(change == "learns")
    if change == "augments":
        digits = replace(digits, augment=Augmentation(AugmentationConfig(flip=0.5)))
    technique = decide(model, processor, digits, *words).techniques[0]
    assert not technique.is_on
    assert re.search(why, technique.detail)
    with pytest.raises(UserError, match=f"trainer.speed.feature_cache=true cannot apply: {why}"):
        decide(model, processor, digits, *words, "trainer.speed.feature_cache=true")


def test_without_being_asked_it_is_on_where_it_pays(
    frozen: PaliGemmaForConditionalGeneration,
    processor: PaliGemmaProcessor,
    digits: ExampleDataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "the vision tower is small" in decide(frozen, processor, digits).techniques[0].detail
    monkeypatch.setattr(decisions, "_FEW", 1)
    once = decide(frozen, processor, digits, "trainer.num_train_epochs=1", "trainer.global_batch_size=2")
    assert once.techniques[0].detail.startswith("each image is seen once; trainer.speed.feature_cache=true")
    twice = decide(frozen, processor, digits, "trainer.num_train_epochs=2", "trainer.global_batch_size=2")
    assert twice.techniques[0].is_on
    off = decide(frozen, processor, digits, "trainer.speed.feature_cache=false").techniques[0]
    assert off.detail == "by trainer.speed.feature_cache"


def test_without_room_training_goes_on_and_says_how_much_is_needed(
    frozen: PaliGemmaForConditionalGeneration,
    processor: PaliGemmaProcessor,
    digits: ExampleDataset,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room, "_free_bytes", lambda _: 1000)
    decided = decide(frozen, processor, digits, "trainer.speed.feature_cache=true")
    assert re.search(r"no room: at most \d+\.\d MiB \(12 images x 64 tokens", decided.techniques[0].detail)
    assert decided.store is None
    assert not cache.exists()


def test_images_are_counted_once_by_their_path(digits: ExampleDataset) -> None:
    rows = digits.rows.remove_columns("image")
    one = rows.add_column("image", ["a.png", "b.png", "a.png", "c.png", "a.png", "b.png"])
    several = rows.add_column("images", [["a.png", "b.png"], ["b.png"]] * 3)
    assert count_images(digits) == 6
    assert count_images(replace(digits, rows=one)) == 3
    assert count_images(replace(digits, rows=several)) == 2
    assert count_images(replace(digits, rows=one.select([5, 1]))) == 1
    assert count_images(replace(digits, rows=several.select([1, 3]))) == 1


def test_images_that_several_rows_show_are_seen_more_than_once(
    frozen: PaliGemmaForConditionalGeneration,
    processor: PaliGemmaProcessor,
    digits: ExampleDataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decisions, "_FEW", 1)
    paths = digits.rows.remove_columns("image").add_column("image", ["a.png", "b.png"] * 3)
    words = ("trainer.num_train_epochs=1", "trainer.global_batch_size=2")
    assert not decide(frozen, processor, digits, *words).techniques[0].is_on
    assert decide(frozen, processor, replace(digits, rows=paths), *words).techniques[0].is_on


def test_images_of_other_data_in_the_folder_do_not_count_as_stored(
    random_model: Build,
    processor: PaliGemmaProcessor,
    digits: ExampleDataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = random_model().eval()
    model.requires_grad_(False)
    decided = decide(model, processor, digits, "trainer.speed.feature_cache=true")
    assert not decided.is_full
    store, values = decided.store, torch.zeros(decided.store.shape)
    for number in range(20):
        store.write(make_key(bytes([number])), values, (1, 1))
    needed = 12 * store.record_bytes
    monkeypatch.setattr(room, "_free_bytes", lambda _: 2 * needed - 1)
    assert (
        "no room"
        in decide(model, processor, digits, "trainer.speed.feature_cache=true").techniques[0].detail
    )
    compute_losses(model, Collator(processor)([decided.attach(digits)[index] for index in range(3)]))
    half = decide(model, processor, digits, "trainer.speed.feature_cache=true")
    assert (half.techniques[0].is_on, half.is_full) == (True, False)
    assert half.store.spared == pytest.approx(needed, abs=2)
    compute_losses(model, Collator(processor)([decided.attach(digits)[index] for index in range(6)]))
    assert decide(model, processor, digits, "trainer.speed.feature_cache=true").is_full


def test_an_image_that_changes_under_its_name_is_encoded_again(
    random_model: Build, processor: PaliGemmaProcessor, digits: ExampleDataset, tmp_path: Path
) -> None:
    model, collator = random_model().eval(), Collator(processor)
    model.requires_grad_(False)
    file = tmp_path / "one.bmp"
    noise_image(1).save(file)
    state = file.stat()
    rows = digits.rows.select([0]).remove_columns("image").add_column("image", [str(file)])
    plain = replace(digits, rows=rows)
    examples = decide(model, processor, plain, "trainer.speed.feature_cache=true").attach(plain)
    before = compute_losses(model, collator([examples[0]]))
    assert examples[0].stored
    noise_image(2).save(file)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert file.stat().st_size == state.st_size
    assert not examples[0].stored
    after = compute_losses(model, collator([examples[0]]))
    assert not torch.equal(before, after)
    assert torch.equal(after, compute_losses(model, collator([plain[0]])))


RUN = (
    "recipe=quickstart",
    "trainer.bf16=false",
    "trainer.limit=8",
    "trainer.global_batch_size=4",
    "trainer.max_steps=4",
    "trainer.logging_steps=1",
    "trainer.dataloader_num_workers=0",
    "evaluation.limit=4",
    "evaluation.batch_size=4",
    "trainer.save_steps=2",
)


def read_losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def list_records(cache: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in cache.rglob("*.records")}


def test_runs_share_features_and_train_as_without(cache: Path, command: Command, tmp_path: Path) -> None:
    def train(name: str, *words: str) -> str:
        code, out, err = command(*RUN, f"runs_dir={name}", *words)
        assert code == 0, err
        return out

    with_cache = "trainer.speed.feature_cache=true"
    train("plain", "trainer.speed.feature_cache=false")
    assert not list_records(cache)
    out = train("shared", with_cache)
    assert re.search(r"feature_cache +on +at most 0.2 MiB \(12 images x 64 tokens x 128 numbers", out)
    written = list_records(cache)
    assert sum(written.values()) == 12 * 64 * 128 * 2
    losses = [read_losses(tmp_path / "plain/quickstart"), read_losses(tmp_path / "shared/quickstart")]
    shutil.rmtree(tmp_path / "shared/quickstart/checkpoints/checkpoint-4")
    train("shared", with_cache, "resume=true")
    out = train("shared", with_cache, "overwrite=true")
    assert "x 2 bytes), of which none are missing, in" in out
    assert list_records(cache) == written
    losses.append(read_losses(tmp_path / "shared/quickstart"))
    assert len(losses[0]) == 4
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[2] == pytest.approx(losses[0], rel=1e-5)
    files = (tmp_path / name / "quickstart/predictions/validation.jsonl" for name in ("plain", "shared"))
    first, second = (file.read_text() for file in files)
    assert first == second


def test_an_evaluation_reads_the_features_of_its_run_and_writes_only_when_asked(
    cache: Path, command: Command, tmp_path: Path
) -> None:
    with_cache, without = "trainer.speed.feature_cache=true", "trainer.speed.feature_cache=false"

    def evaluate(*words: str) -> tuple[str, str]:
        code, out, err = command("evaluate", "run=runs/quickstart", "split=validation", *words)
        assert code == 0, err
        return out, (tmp_path / "runs/quickstart/predictions/validation.evaluate.jsonl").read_text()

    assert command(*RUN, without)[0] == 0
    out, expected = evaluate()
    assert "feature_cache" not in out
    assert not list_records(cache)
    out, written = evaluate(with_cache)
    assert "feature_cache on  at most 0.1 MiB (4 images x 64 tokens" in out
    assert sum(list_records(cache).values()) == 4 * 64 * 128 * 2
    out, read = evaluate(with_cache)
    assert "of which none are missing, in" in out
    assert expected == written == read
    assert command(*RUN, "overwrite=true", with_cache)[0] == 0
    assert sum(list_records(cache).values()) == (4 + 8) * 64 * 128 * 2
