"""What `finetune/cli.py` and `finetune/config` rely on in Hydra and OmegaConf.

Each test uses the library alone and fails when an update changes what it is relied on for.
"""

from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import OmegaConf


def parse(word: str) -> Any:
    return OverridesParser.create().parse_override(word)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        pytest.param("key=2024", 2024, id="number"),
        pytest.param("key=1e-4", 1e-4, id="exponent"),
        pytest.param("key='2024'", "2024", id="quoted number"),
        pytest.param("key='1e-4'", "1e-4", id="quoted exponent"),
        pytest.param("key='lr=0.1'", "lr=0.1", id="quoted equals sign"),
        pytest.param("key='größe'", "größe", id="quoted umlaut"),
        pytest.param("key='a, b [c] {d}'", "a, b [c] {d}", id="quoted grammar"),
        pytest.param(r"key='it\'s'", "it's", id="escaped quote"),
        pytest.param(r"key='a\b'", r"a\b", id="backslash"),
        pytest.param(r"key='a\\'", "a\\", id="backslash before the end"),
        pytest.param("key=null", None, id="null"),
    ],
)
def test_a_quoted_value_is_text_as_it_stands(word: str, value: Any) -> None:
    """Else names, prompts and files are read as numbers, lists or sweeps."""
    found = parse(word)
    assert not found.is_sweep_override()
    read = found.value()
    assert (read, type(read)) == (value, type(value))


def test_a_comma_outside_quotes_is_a_sweep() -> None:
    """Else `-m peft.r=2,8` is one run."""
    assert parse("peft.r=2,8").is_sweep_override()
    assert not parse("peft.r='2,8'").is_sweep_override()


@pytest.mark.parametrize("word", ["key=größe", "key=a b=c"])
def test_some_words_need_quotes(word: str) -> None:
    """Else the command line quotes what it need not, and refuses what Hydra would take."""
    with pytest.raises(HydraException):
        parse(word)


def test_a_target_is_found_by_its_name() -> None:
    """Else data sets, tasks and metrics of one's own cannot be plugged in."""
    assert get_object("collections.Counter")([1, 1]) == {1: 2}


def test_a_structured_config_refuses_an_unknown_key() -> None:
    """Else a misspelt option is taken without a word."""
    from finetune.run.trackers.options import TrackerConfig

    with pytest.raises(Exception, match="not in 'TrackerConfig'"):
        OmegaConf.merge(OmegaConf.structured(TrackerConfig), {"projekt": "mine"})
