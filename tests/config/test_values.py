"""Every option of `JOB --help` is given values of the wrong type and out of its range.

The options are those of the schema, so that a new one is covered by itself.
"""

from dataclasses import Field, fields, is_dataclass
from enum import StrEnum
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from finetune.config.checks import check
from finetune.config.choices import GROUP_SCHEMAS, build_node
from finetune.config.compose import compose_words, to_options
from finetune.config.help import job_help
from finetune.config.messages import explain
from finetune.config.schema import RunConfig
from finetune.config.words import check_words, rewrite
from finetune.errors import UserError
from finetune.option import MAY_BE_EMPTY, OneOf, Range, limit_of

NOT_NUMBERS = ["nan", "inf", "-inf"]
HUGE = ["1" + "0" * 30, "-1" + "0" * 30]


def options(schema: Any, prefix: str, choice: str | None = None) -> list[Any]:
    found = []
    for field in fields(schema):
        kind: Any = field.type
        if isinstance(kind, type) and is_dataclass(kind):
            found += options(kind, f"{prefix}{field.name}.", choice)
        elif kind is not Any and field.name != "_target_":
            key = f"{prefix}{field.name}"
            found.append(pytest.param(key, field, choice, id=f"{choice or 'run'}: {key}"))
    return found


OPTIONS = options(RunConfig, "") + [
    option
    for group, schemas in GROUP_SCHEMAS.items()
    for choice, schema in schemas.items()
    for option in options(schema, f"{group}.", choice)
]


@pytest.fixture(scope="module")
def composed() -> DictConfig:
    return compose_words(["recipe=quickstart"])[0]


def problems(composed: DictConfig, key: str, choice: str | None, value: str) -> str:
    """Return what is reported of one option's value; of other options nothing."""
    config = composed.copy()
    group = key.partition(".")[0]
    if choice is not None:
        with open_dict(config):
            config[group] = build_node(GROUP_SCHEMAS[group][choice])
    try:
        check_words([f"{key}={value}"])
        [word] = [word for word in rewrite(f"{key}={value}") if not word.startswith("recipe=")]
        parsed = OverridesParser.create().parse_override(word).value()
        OmegaConf.update(config, key, parsed)
        check(to_options(config), config)
    except UserError as error:
        return "\n".join(line for line in str(error).splitlines() if key.rpartition(".")[2] in line)
    except (HydraException, OmegaConfBaseException) as error:
        message = explain(error)
        assert key in message
        assert "\n" not in message
        return message
    return ""


def wrong_values(key: str, field: Field[Any]) -> list[str]:
    """What no option of a kind can mean."""
    kind: Any = field.type
    limit = limit_of(field)
    needed = type(None) not in getattr(kind, "__args__", ())
    inner = next((part for part in getattr(kind, "__args__", ()) if part is not type(None)), kind)
    null = ["null"] if needed and not str(kind).startswith("dict") and kind is not str else []
    if inner is bool or kind is bool:
        return ["many", "-1", "3", *NOT_NUMBERS, *HUGE, "[true]", *null]
    if int in (inner, kind) or float in (inner, kind):
        if str(kind).startswith("list"):
            return ["many", "-1", "[many]", "[-1,1]", "[nan,nan]", "[0.5,inf]", "[[1],[2]]", *null]
        below = ["-2", "-0.1"] if key == "trainer.max_steps" else ["-1", "-0.1"]
        zero = ["0"] if isinstance(limit, Range | OneOf) and 0 not in limit else []
        return ["many", "true", "''", "[1]", "{a: 1}", *below, *zero, *NOT_NUMBERS, *HUGE, *null]
    if isinstance(inner, type) and issubclass(inner, StrEnum):
        return ["many", "-1", "7", *NOT_NUMBERS, *HUGE, "[a]"]
    if kind is str or kind == (str | None):
        return [] if limit == MAY_BE_EMPTY else [""]
    return ["3", "many", "nan", *([] if str(kind).startswith("dict") else ["['']", "{a: 1}"])]


@pytest.mark.parametrize(("key", "field", "choice"), OPTIONS)
def test_a_value_that_cannot_be_is_one_message_that_names_the_key(
    composed: DictConfig, key: str, field: Field[Any], choice: str | None
) -> None:
    if key == "run":
        pytest.skip("a folder that must be there")
    for value in wrong_values(key, field):
        message = problems(composed, key, choice, value)
        assert key.rpartition(".")[2] in message, f"{key}={value} is accepted"


RIGHT = [
    ("seed", "4294967295"),
    ("trainer.max_steps", "-1"),
    ("trainer.warmup_steps", "100"),
    ("trainer.learning_rate", "1e-4"),
    ("trainer.weight_decay", "0"),
    ("trainer.max_grad_norm", "0"),
    ("trainer.towers.vision_tower.learning_rate", "null"),
    ("trainer.adam_beta1", "0"),
    ("trainer.dataloader_num_workers", "0"),
    ("evaluation.pictures", "0"),
    ("peft.use_dora", "True"),
    ("peft.lora_alpha", "0.5"),
    ("peft.target_modules", "[q_proj]"),
    ("augmentation.flip_words", "[left,right]"),
    ("task.prompt", ""),
    ("task.prompt", "{{braces}} of {question}"),
]


@pytest.mark.parametrize(("key", "value"), RIGHT)
def test_a_value_that_can_be_is_accepted(composed: DictConfig, key: str, value: str) -> None:
    assert problems(composed, key, None, value) == ""


def test_help_says_what_a_number_may_be() -> None:
    text = job_help("train", "")
    limits = {param.values[0]: limit_of(param.values[1]) for param in OPTIONS}
    ranges = {key: limit for key, limit in limits.items() if isinstance(limit, Range | OneOf)}
    assert len(ranges) > 40
    lines = text.splitlines()
    for key, limit in ranges.items():
        assert any(line.strip().startswith(f"{key}=") and str(limit) in line for line in lines), key
