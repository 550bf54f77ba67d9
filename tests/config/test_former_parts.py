from pathlib import Path

import pytest
from omegaconf import OmegaConf

from finetune.assembly.sources import RECORDED
from finetune.config.choices import GROUP_SCHEMAS
from finetune.config.compose import add_recipe, compose, compose_words, write_recipe
from finetune.config.former_parts import FORMER_TARGETS
from finetune.config.recipe_file import load_recipe
from finetune.config.schema import RunConfig
from finetune.data.options import Digits
from finetune.errors import UserError
from finetune.metrics.anls import Anls
from finetune.metrics.text import ExactMatch
from finetune.run.resume import check_same_settings

SINGLE = """# @package _global_
defaults:
- override /augmentation: none
- override /collator: default
- override /dataset: digits
- override /evaluation: default
- override /freeze: vision
- override /metric: exact_match
- override /model: tiny
- override /peft: qlora
- override /task: vqa
- override /tracker: none
- override /trainer: default
seed: 0
dataset:
  _target_: finetune.data.digits.load_digits
  size: 56
task:
  _target_: finetune.tasks.text.TextTask
  prompt: answer en {question}
  answers: answers
  lower: false
  objects: false
metric:
  _target_: finetune.metrics.text.ExactMatch
  lower: false
  strip: false
"""
"""The `config.yaml` of a run as it was written, without the groups that no `_target_` was in."""

MIXTURE = """# @package _global_
defaults:
- override /augmentation: none
- override /collator: default
- override /dataset: mixture
- override /evaluation: default
- override /freeze: vision
- override /metric: exact_match
- override /model: tiny
- override /peft: qlora
- override /task: vqa
- override /tracker: none
- override /trainer: default
seed: 0
dataset:
  _target_: finetune.data.mixture.mix_splits
  parts:
    a:
      source:
        _target_: finetune.data.digits.load_digits
        size: 56
      task:
        _target_: finetune.tasks.text.TextTask
        prompt: answer en {question}
        answers: answers
        lower: false
        objects: false
      weight: 2
    b:
      source:
        _target_: finetune.data.digits.load_digits
        size: 56
      task:
        _target_: finetune.tasks.text.TextTask
        prompt: '{question}'
        answers: answers
        lower: false
        objects: false
task:
  _target_: finetune.tasks.text.TextTask
  prompt: answer en {question}
  answers: answers
  lower: false
  objects: false
metric:
  _target_: finetune.metrics.text.ExactMatch
  lower: false
  strip: false
"""


def compose_file(folder: Path, text: str) -> RunConfig:
    file = folder / "config.yaml"
    file.write_text(text)
    return compose([f"recipe={add_recipe(file)}"])


def test_a_former_run_composes_to_the_same_parts(tmp_path: Path) -> None:
    config = compose_file(tmp_path, SINGLE)
    assert config.dataset == Digits(size=56)
    assert config.task == compose(["recipe=quickstart", "task=vqa"]).task
    assert config.metric == ExactMatch()


def test_a_former_mixture_composes_to_the_same_parts(tmp_path: Path) -> None:
    config = compose_file(tmp_path, MIXTURE)
    parts = config.dataset.parts
    assert list(parts) == ["a", "b"]  # rows are drawn by the order of the parts
    assert [parts[name].source for name in "ab"] == [Digits(size=56)] * 2
    tasks = [compose(["recipe=quickstart", f"task={name}"]).task for name in ("vqa", "question")]
    assert [parts[name].task for name in "ab"] == tasks
    assert parts["a"].weight == 2


def test_a_mixture_written_as_a_recipe_composes_to_the_same(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(MIXTURE)
    composed, choices = compose_words([f"recipe={add_recipe(tmp_path / 'config.yaml')}"])
    (tmp_path / "again").mkdir()
    (tmp_path / "again/config.yaml").write_text(write_recipe(composed, choices))
    again, _ = compose_words([f"recipe={add_recipe(tmp_path / 'again/config.yaml')}"])
    assert OmegaConf.to_container(again.dataset) == OmegaConf.to_container(composed.dataset)
    assert list(again.dataset.parts) == list(composed.dataset.parts)
    assert OmegaConf.get_type(again.dataset.parts.a.task) is OmegaConf.get_type(
        composed.dataset.parts.a.task
    )


def test_what_was_never_shipped_keeps_its_target(tmp_path: Path) -> None:
    text = SINGLE.replace("/metric: exact_match", "/metric: custom").replace(
        "finetune.metrics.text", "mine"
    )
    assert compose_file(tmp_path, text).metric["_target_"] == "mine.ExactMatch"


def test_a_former_target_that_no_default_chooses_is_the_choice(tmp_path: Path) -> None:
    text = SINGLE.replace("- override /metric: exact_match\n", "").replace(
        "- override /dataset: digits\n", ""
    )
    assert compose_file(tmp_path, text) == compose_file(tmp_path, SINGLE)
    anls = text.replace(
        "finetune.metrics.text.ExactMatch\n  lower: false\n  strip: false", "finetune.metrics.anls.Anls"
    )
    assert compose_file(tmp_path, anls).metric == Anls()


def test_every_choice_that_there_was_is_still_there() -> None:
    for group, choice in FORMER_TARGETS.values():
        assert choice in GROUP_SCHEMAS[group]


@pytest.mark.parametrize("text", [SINGLE, MIXTURE], ids=["single", "mixture"])
def test_a_former_run_has_the_settings_that_it_is_resumed_with(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    composed, choices = compose_words([f"recipe={add_recipe(file)}"])
    whole = OmegaConf.create(write_recipe(composed, choices))
    former = OmegaConf.merge(
        {key: value for key, value in whole.items() if key != "metrics"}, OmegaConf.create(text)
    )
    file.write_text(OmegaConf.to_yaml(former))
    check_same_settings(file, OmegaConf.to_yaml(whole), RECORDED, load_recipe)
    other = OmegaConf.to_yaml(whole).replace("/metric: exact_match", "/metric: any_match")
    with pytest.raises(UserError, match="another dataset, task or metric is chosen.*metric=exact_match"):
        check_same_settings(file, other, RECORDED, load_recipe)
    whole.seed = 1
    with pytest.raises(UserError, match="these differ: seed"):
        check_same_settings(file, OmegaConf.to_yaml(whole), RECORDED, load_recipe)
