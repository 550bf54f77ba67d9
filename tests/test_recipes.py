"""The recipes of the paper's transfers have the published values, and their headers' commands too."""

import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from finetune.assembly.custom import build_metric, instantiate
from finetune.assembly.pixels import choose_antialias
from finetune.config.compose import compose, known_recipes
from finetune.config.schema import RunConfig


class Transfer(NamedTuple):
    """Where a recipe's values stand among the facts."""

    task: str
    """Name of the transfer."""
    train: str
    """Its training split: `train_final` or `train_tuning`."""
    validation: str
    """Name of the evaluation that the recipe makes."""
    deviations: dict[str, Any] | None = None
    """Values that are other ones on purpose."""


_EIGHT = (
    "refcoco_unc_val+refcoco_unc_testA+refcoco_unc_testB"
    "+refcoco_plus_unc_val+refcoco_plus_unc_testA+refcoco_plus_unc_testB"
    "+refcocog_umd_val+refcocog_umd_test"
)
_ROWS_ARE_SENTENCES = {"train": "combined_train", "validation": _EIGHT, "epochs": "steps"}
_NO_PUBLISHED_SPLIT = {"train": "train[:-5%]", "validation": "train[-5%:]"}

TRANSFERS = {
    "ai2d": Transfer("ai2d", "train_final", "eval"),
    "aokvqa_mc": Transfer("aokvqa_mc", "train_tuning", "eval"),
    "chartqa": Transfer("chartqa", "train_final", "eval"),
    "cococap": Transfer("cococap", "train_final", "eval"),
    "docvqa": Transfer("docvqa", "train_tuning", "eval"),
    "gqa": Transfer("gqa", "train_final", "testdev_balanced"),
    "infovqa": Transfer("infovqa", "train_tuning", "minival"),
    "nlvr2": Transfer("nlvr2", "train_final", "test", {"validation": "test1"}),
    "okvqa": Transfer("okvqa", "train_final", "eval"),
    "refcoco_seg": Transfer("refcoco_seg", "train_final", "refcoco/{val,testA,testB}", _ROWS_ARE_SENTENCES),
    "rsvqa_hr": Transfer("rsvqa_hr", "train_final", "test"),
    "rsvqa_lr": Transfer("rsvqa_lr", "train_final", "test"),
    "scienceqa": Transfer("science_qa", "train_final", "eval"),
    "stvqa": Transfer("stvqa", "train_tuning", "minival", _NO_PUBLISHED_SPLIT),
    "tallyqa": Transfer("tallyqa", "train_final", "eval"),
    "textcaps": Transfer("textcaps", "train_final", "eval"),
    "textvqa": Transfer("textvqa", "train_tuning", "eval"),
    "vizwiz": Transfer("vizwizvqa", "train_tuning", "minival"),
    # Its files are named apart from any split.
    "vqav2": Transfer("vqav2", "train_tuning", "minival", {"train": None, "validation": None}),
}


def test_every_full_recipe_of_a_release_is_compared_with_the_published_values() -> None:
    full = {name.removesuffix("_full") for name in known_recipes() if name.endswith("_full")}
    assert full - {"quickstart"} == set(TRANSFERS)


@pytest.fixture
def facts(parity_data: Path) -> dict[str, Any]:
    """What big_vision's configs and the paper say of each transfer."""
    file = parity_data.parent / "facts/transfers.yaml"
    if not file.is_file():
        pytest.skip(f"no {file}")
    published: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    tasks = {entry["name"]: entry for entry in published["tasks"]}
    return {"common": published["common"], "tasks": tasks}


def read_commands(recipe: str) -> dict[str, list[str]]:
    """Return the words of the header's command for each resolution."""
    header = known_recipes()[recipe].read_text(encoding="utf-8").split("\ndefaults:")[0]
    found: dict[str, list[str]] = {}
    for line in re.findall(rf"^#   python -m finetune (recipe={recipe} ?.*)$", header, re.MULTILINE):
        words = shlex.split(re.sub(r"\s{2,}[a-z].*$", "", line))
        resolution = next((w.split("=")[1] for w in words if w.startswith("model.resolution=")), "224")
        found.setdefault(resolution, words)
    return found


@cache
def compose_as_told(recipe: str, resolution: str = "224") -> RunConfig:
    """Compose what the header's command for a resolution says."""
    return compose(read_commands(recipe)[resolution])


def read_split(value: Any) -> str | None:
    """Return a split's name without spaces; VQAv2 names files instead."""
    return value.replace(" ", "") if isinstance(value, str) else None


def describe(config: RunConfig) -> dict[str, Any]:
    """Return a recipe's values under the names of the facts."""
    trainer, towers, freeze = config.trainer, config.trainer.towers, config.freeze
    return {
        # big_vision feeds text_len tokens and predicts each one's successor: EOS stands behind them.
        "text_len": config.collator.max_text_length - 1,
        "max_decode_len": config.evaluation.max_new_tokens,
        "epochs": "steps" if trainer.max_steps > 0 else trainer.num_train_epochs,
        "batch_size": trainer.global_batch_size,
        "lr": trainer.learning_rate,
        "torch_adamw_weight_decay": [
            trainer.weight_decay if tower.weight_decay is None else tower.weight_decay
            for tower in (towers.vision_tower, towers.multi_modal_projector, towers.language_model)
        ],
        "llm_dropout": config.model.llm_dropout,
        "label_smoothing": trainer.loss.label_smoothing,
        "freeze_vit": [freeze.vision_tower, freeze.multi_modal_projector],
        "freeze_llm": freeze.language_model,
        "decode": config.evaluation.num_beams,
        "suffix_sampling": config.collator.suffix_choice,
        "train": read_split(config.dataset.train),
        "validation": read_split(config.dataset.validation),
        "method": (config.peft.method, config.model.dtype),
        "optimizer": [trainer.adam_beta1, trainer.adam_beta2, trainer.adam_epsilon, trainer.max_grad_norm],
        "schedule": (trainer.lr_scheduler_type, trainer.warmup_steps, trainer.loss.average),
    }


def expect(facts: dict[str, Any], transfer: Transfer, resolution: str) -> dict[str, Any]:
    """Return the published values under the same names."""
    entry, optimizer = facts["tasks"][transfer.task], facts["common"]["optimizer"]
    tuned, data = entry["hparams"][resolution], entry["dataset"]
    decay = tuned["torch_adamw_weight_decay"]
    learning = {True: "none", False: "all"}
    same = ("epochs", "batch_size", "lr", "llm_dropout", "label_smoothing")
    return {
        **{name: entry[name] for name in ("text_len", "max_decode_len")},
        **{name: tuned[name] for name in same},
        "torch_adamw_weight_decay": [decay, decay, 0.0],
        "freeze_vit": [learning[tuned["freeze_vit"]]] * 2,
        "freeze_llm": learning[tuned["freeze_llm"]],
        "decode": 1 if tuned["decode"] == "greedy" else int(tuned["decode"].removeprefix("beam n=")),
        "suffix_sampling": "random" if "WITH replacement" in entry.get("suffix_sampling", "") else "cycle",
        "train": read_split(data[transfer.train]),
        "validation": read_split(data["eval"][transfer.validation]),
        "method": ("none", "float32"),
        "optimizer": [optimizer[name] for name in ("b1", "b2", "eps", "grad_clip_norm")],
        "schedule": ("cosine", optimizer["warmup_percent"], "example"),
        **(transfer.deviations or {}),
    }


CASES = [(name, resolution) for name in TRANSFERS for resolution in sorted(read_commands(f"{name}_full"))]


@pytest.mark.parity
@pytest.mark.parametrize(("name", "resolution"), CASES)
def test_a_full_recipe_has_the_published_values_at_each_resolution(
    facts: dict[str, Any], name: str, resolution: str
) -> None:
    transfer, recipe = TRANSFERS[name], f"{name}_full"
    config = compose_as_told(recipe, resolution)
    assert describe(config) == expect(facts, transfer, resolution)
    assert set(read_commands(recipe)) == set(facts["tasks"][transfer.task]["resolutions_tuned"])
    assert "Deviations:" in known_recipes()[recipe].read_text(encoding="utf-8")


@pytest.mark.parity
def test_steps_stand_for_the_published_epochs_where_rows_are_sentences(facts: dict[str, Any]) -> None:
    published = facts["tasks"]["refcoco_seg"]
    photos = int(published["dataset"]["n_train"].split()[0])
    for resolution, tuned in published["hparams"].items():
        steps = round(tuned["epochs"] * photos / tuned["batch_size"])
        assert compose_as_told("refcoco_seg_full", resolution).trainer.max_steps == steps


QUESTION = "What is Shown?"
CHOICES = ["Red Fox", "dog", "cat", "owl"]
ROW: dict[str, Any] = {
    "id": "1",
    "question": QUESTION,
    "hint": "N/A",
    "expression": "left dog",
    "answers": ["Red Fox"],
    "captions": ["Red Fox"],
    "choices": CHOICES,
    "answer": 0,
    "width": 200,
    "height": 100,
    "objects": [
        {
            "label": "dog",
            "box_xyxy": [20.0, 10.0, 100.0, 50.0],
            "iscrowd": 0,
            "area": 1.0,
            "mask_rle": {"size": [100, 200], "counts": [2010, 40, 17950]},
        }
    ],
}
WORDS = {
    "question": QUESTION,
    "question_text": QUESTION,
    "sentence": QUESTION,
    "hint": "N/A",
    "referring sentence": "left dog",
    "indexed_choices": "(A) Red Fox, (B) dog, (C) cat, (D) owl",
    "indexed_answer": "A",
    **{f"{letter}{index}": text for letter in "ac" for index, text in enumerate(CHOICES)},
}


def fill(template: str) -> str:
    """Write the facts' template of a prompt or an answer for `ROW`."""
    template = template.replace("{a1} \t ...", "{a1} \t {a2} \t {a3}")
    return re.sub(r"\{([^}]*)\}", lambda found: WORDS.get(found[1], "Red Fox"), template)


@pytest.mark.parity
@pytest.mark.parametrize("method", ["full", "qlora"])
@pytest.mark.parametrize("name", sorted(TRANSFERS))
def test_prompt_and_answer_are_worded_as_published(facts: dict[str, Any], name: str, method: str) -> None:
    entry = facts["tasks"][TRANSFERS[name].task]
    config = compose_as_told(f"{name}_{method}")
    text = instantiate(config.task).measure_text(ROW)
    assert text.prefix == fill(entry["prefix"])
    if "<loc" in entry["suffix"]:
        assert re.fullmatch(r"<loc0102><loc0102><loc0512><loc0512>(<seg\d{3}>){16}", text.suffixes[0])
    else:
        suffix = fill(entry["suffix"])
        assert text.suffixes == (suffix.lower() if entry["lowercase"] is True else suffix,)
    assert config.collator.max_text_length == entry["text_len"] + 1


@pytest.mark.parity
@pytest.mark.parametrize(
    "recipe", [*(f"{name}_full" for name in TRANSFERS), "pope", "nocaps", "countbenchqa"]
)
def test_images_are_antialiased_where_the_published_configs_do(facts: dict[str, Any], recipe: str) -> None:
    name = recipe.removesuffix("_full")
    published = facts["tasks"][TRANSFERS[name].task if name in TRANSFERS else name]["image"]
    config = compose([f"recipe={recipe}", "image.resize=paper"])
    for split, key in (("train", "antialias_train"), ("validation", "antialias_eval")):
        if published[key] is not None:
            assert choose_antialias(config, split) == {"": published[key]}


@pytest.mark.parity
@pytest.mark.parametrize("name", ["pope", "mmvp", "nocaps", "countbenchqa"])
def test_a_recipe_to_evaluate_on_asks_as_published(facts: dict[str, Any], name: str) -> None:
    entry = facts["tasks"][name]
    config = compose([f"recipe={name}"])
    # The paper's prompt for POPE is that of the transfer it evaluates; the config's default is another.
    prefix = "answer en {question}" if name == "pope" else entry["prefix"]
    assert instantiate(config.task).build_text(ROW).prefix == fill(prefix)
    if entry["max_decode_len"] != "unknown":
        assert config.evaluation.max_new_tokens == entry["max_decode_len"]
    if "beam" in entry["metric"]:
        assert f"beam n={config.evaluation.num_beams}" in entry["metric"]


@pytest.mark.parametrize("recipe", sorted(known_recipes()))
def test_a_header_says_how_many_text_tokens_there_are(recipe: str) -> None:
    header = known_recipes()[recipe].read_text(encoding="utf-8").split("\ndefaults:")[0]
    config = compose([f"recipe={recipe}"])
    for count in re.findall(r"(\d+)\s+(?:#\s+)?text\s+(?:#\s+)?tokens", header):
        assert int(count) == config.collator.max_text_length


IMAGES = {
    (True, True): "images",
    (True, False): "images (antialiased by big_vision in training alone)",
    (False, False): "images (never antialiased by big_vision)",
}


@pytest.mark.parametrize(
    "recipe", [*(f"{name}_full" for name in TRANSFERS), "pope", "mmvp", "nocaps", "countbenchqa"]
)
def test_a_header_says_how_the_papers_images_differ(recipe: str) -> None:
    text = known_recipes()[recipe].read_text(encoding="utf-8").split("\ndefaults:")[0]
    _, named, deviations = re.sub(r"\s*\n#\s*", " ", text).partition("Deviations: ")
    assert named
    config = compose([f"recipe={recipe}", "image.resize=paper"])
    train, validation = (choose_antialias(config, split) for split in ("train", "validation"))
    assert train is not None
    assert validation is not None
    said = "images are read and" if recipe == "vqav2_full" else IMAGES[train[""], validation[""]]
    assert re.match(rf"{re.escape(said)}(,| resized| as in)", deviations)
    if recipe == "vqav2_full":
        assert "image.resize=paper" in deviations
    else:
        assert "as in vqav2_full" in deviations


@pytest.mark.parametrize("recipe", sorted(known_recipes()))
def test_an_adapter_of_a_quantised_base_is_put_on_one(recipe: str) -> None:
    text = known_recipes()[recipe].read_text(encoding="utf-8")
    for line in re.findall(r"^#   python .*adapter=runs/\w+_qlora/.*$", text, re.MULTILINE):
        assert compose(shlex.split(line)[5:]).peft.bits == 4


PUBLISHED = {
    name: scores
    for name, file in known_recipes().items()
    if (scores := yaml.safe_load(file.read_text(encoding="utf-8")).get("published"))
}


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_published_scores_are_those_of_the_header(recipe: str) -> None:
    told = "vqav2_qlora" if recipe == "vqav2_lora" else recipe  # whose header refers to the other's
    header = known_recipes()[told].read_text(encoding="utf-8").split("\ndefaults:")[0]
    text = re.sub(r"\s*\n#\s*", " ", header)
    for score in PUBLISHED[recipe].values():
        value = f"{score['value']:.3f}" if score["value"] < 2 else f"{score['value']:.1f}"
        assert re.search(rf"(?<![\d.]){re.escape(value)}(?!\d)", text), value
        assert score["source"].split(",")[0] in text
        assert score["model"] in {"PaliGemma 3B", "PaliGemma 2 3B"}


def test_every_benchmark_has_published_scores_of_its_metric() -> None:
    full = {name for name in known_recipes() if name.endswith("_full")}
    assert full - set(PUBLISHED) == {"quickstart_full"}
    for recipe in ("chartqa_full", "rsvqa_hr_full", "cococap_qlora", "pope"):
        config = compose([f"recipe={recipe}"])
        fields = build_metric(config).higher_is_better
        assert {score.field for score in config.published.values()} <= set(fields)
