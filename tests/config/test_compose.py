from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from finetune.config.checks import check
from finetune.config.choices import GROUP_SCHEMAS
from finetune.config.compose import (
    add_recipe,
    compose,
    compose_words,
    describe_kept,
    group_choices,
    known_recipes,
    prefer_command_line,
    to_options,
    write_recipe,
)
from finetune.config.help import GROUPS
from finetune.config.schema import RunConfig
from finetune.data.options import Digits, Table

Command = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("recipe", sorted(known_recipes()))
def test_every_recipe_composes_to_the_schema_and_contradicts_itself_nowhere(recipe: str) -> None:
    config = compose([f"recipe={recipe}"])
    assert isinstance(config, RunConfig)
    check(config, OmegaConf.create())


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        pytest.param("recipe=vqa_qlora collator='short'", "collator.max_text_length=512", id="quoted"),
        pytest.param("recipe=vqa_qlora collator=default", "collator.max_text_length=512", id="default"),
        pytest.param(
            "recipe=quickstart trainer=paper trainer.global_batch_size=4",
            "trainer.per_device_train_batch_size=32, trainer.learning_rate=0.002",
            id="not what was given",
        ),
        pytest.param(
            "recipe=textvqa_full trainer=paper_decay", "trainer.learning_rate=3e-06", id="inherited"
        ),
        pytest.param("recipe=quickstart peft=dora freeze=none", None, id="none"),
        pytest.param("recipe=quickstart", None, id="no choice"),
    ],
)
def test_values_of_a_recipe_that_hide_a_chosen_preset_are_named(words: str, kept: str | None) -> None:
    composed, _ = compose_words(words.split())
    described = describe_kept(composed, words.split())
    assert described == kept or (kept and described and f": {kept};" in described)


@pytest.mark.parametrize(
    ("group", "choice"), [(group, choice) for group in GROUPS for choice in group_choices(group)]
)
def test_every_choice_of_every_group_composes(group: str, choice: str) -> None:
    override = f"{group}={choice}"
    needed = {"model=own": "model.path=x"}
    needed |= {f"{part}=custom": f"{part}._target_=x.y" for part in ("dataset", "task", "metric")}
    words = ["recipe=quickstart", override, needed.get(override, "seed=0")]
    assert isinstance(compose(words), RunConfig)


def test_the_command_line_wins_over_the_recipe_and_the_recipe_over_the_group() -> None:
    config = compose(["recipe=quickstart", "peft.r=3"])
    assert config.peft.r == 3
    assert config.trainer.per_device_train_batch_size == 32
    assert config.peft.bits == 4


def test_a_group_choice_on_the_command_line_wins_over_the_recipes() -> None:
    assert compose(["recipe=vqav2_qlora", "model=tiny"]).model.path == "tiny"


def test_the_resolution_chooses_the_published_checkpoint() -> None:
    assert compose(["recipe=vqav2_full", "model.resolution=448"]).model.path.endswith("-448")


def test_names_are_added_to_a_dictionary_without_a_plus() -> None:
    words = ["recipe=quickstart", "dataset=table", "dataset.columns={question: q}"]
    config = compose([*words, "dataset.columns.answers=label"])
    assert isinstance(config.dataset, Table)
    assert config.dataset.columns == {"question": "q", "answers": "label"}
    with pytest.raises(ConfigCompositionException):
        compose([*words, "dataset.colums={question: q}"])


def test_a_typed_group_becomes_its_dataclass() -> None:
    assert isinstance(compose(["recipe=quickstart"]).dataset, Digits)


def test_every_typed_choice_has_a_file() -> None:
    for group, schemas in GROUP_SCHEMAS.items():
        assert set(schemas) <= set(group_choices(group))


def test_the_composed_config_written_as_a_recipe_composes_to_the_same(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["recipe=quickstart", "peft.r=3", "evaluation.limit=4"]
    code, printed, _ = command(*words, "--cfg", "job")
    assert code == 0
    file = tmp_path / "mine.yaml"
    file.write_text("# @package _global_\ndefaults:\n  - override /dataset: digits\n" + printed)
    _, again, _ = command(f"recipe={file}", "--cfg", "job")
    assert OmegaConf.create(again) == OmegaConf.create(printed)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(["peft=none"], ("tiny", "none", 16, "float32", "vqa"), id="peft"),
        pytest.param(["peft=lora", "peft.r=3"], ("tiny", "lora", 16, "float32", "vqa"), id="and-a-value"),
        pytest.param(["model=own", "model.path=x"], ("x", "lora", 4, "float32", "vqa"), id="a-checkpoint"),
        pytest.param(["model=tiny"], ("tiny", "lora", 4, "bfloat16", "vqa"), id="a-model"),
        pytest.param(["task=caption"], ("tiny", "lora", 4, "float32", "caption"), id="task"),
    ],
)
def test_a_group_choice_wins_over_every_value_of_a_runs_config(
    words: list[str], expected: tuple[object, ...], tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    composed, choices = compose_words(["recipe=quickstart", "model.dtype=float32"])
    file.write_text(write_recipe(composed, choices))
    recipe = add_recipe(file)
    config = compose([f"recipe={recipe}", *words])
    task = "caption" if "caption" in str(config.task.prompt) else "vqa"
    method, dtype = config.peft.method.value, config.model.dtype.value
    assert (config.model.path, method, config.peft.bits, dtype, task) == expected


@pytest.mark.parametrize(
    ("former", "recipe", "words"),
    [
        ("coco_json_qlora", "detect_qlora", []),
        (
            "yolo_qlora",
            "detect_qlora",
            ["dataset=yolo", "dataset.train=data.yaml", "dataset.validation=null"],
        ),
    ],
)
def test_a_recipe_for_one_format_is_that_for_its_kind_of_task(
    former: str, recipe: str, words: list[str]
) -> None:
    assert compose([f"recipe={recipe}", *words]) == compose([f"recipe={former}"])


def test_a_share_of_a_hub_dataset_replaces_a_split_that_a_recipe_names() -> None:
    words = ["recipe=detect_qlora", "dataset=hub", "dataset.validation_fraction=0.1"]
    composed, _ = compose_words(words)
    prefer_command_line(composed, words)
    assert composed.dataset.validation == "validation"
    check(to_options(composed), OmegaConf.create())
