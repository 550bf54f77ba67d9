"""docs/performance.md and the memory of docs/recipes.md are what the code computes."""

import re
import runpy
from dataclasses import fields

import pytest

from finetune.config.compose import known_recipes
from finetune.speed import SpeedOptions
from tests.conftest import REPOSITORY

TABLES = runpy.run_path(str(REPOSITORY / "benchmarks/memory_tables.py"))
PAGE = (REPOSITORY / "docs/performance.md").read_text(encoding="utf-8")
RECIPES = (REPOSITORY / "docs/recipes.md").read_text(encoding="utf-8")


def test_the_page_has_a_section_for_each_shortcut() -> None:
    assert re.findall(r"^### `(\w+)`$", PAGE, re.MULTILINE) == [
        field.name for field in fields(SpeedOptions)
    ]


def test_the_table_of_cards_has_a_row_for_each_method_and_resolution() -> None:
    rows = re.findall(r"^\| ([\w ]+) \| (224|448|896) \|", PAGE, re.MULTILINE)
    assert rows == [(method, str(side)) for method in TABLES["METHODS"] for side in TABLES["SIDES"]]


@pytest.mark.parametrize(
    ("method", "side"),
    [
        pytest.param(method, side, marks=[] if (method, side) == ("full", 896) else pytest.mark.slow)
        for method in TABLES["METHODS"]
        for side in TABLES["SIDES"]
    ],
)
def test_the_batches_by_card_are_computed(method: str, side: int) -> None:
    cells = TABLES["list_cells"](method, side)
    assert f"| {' | '.join([method, str(side), *cells])} |" in PAGE


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(name, marks=[] if name == "vqav2_lora" else pytest.mark.slow)
        for name in known_recipes()
    ],
)
def test_the_memory_of_a_recipe_is_computed(recipe: str) -> None:
    row = TABLES["list_recipe"](recipe)
    assert row is None or row in RECIPES.splitlines()
