"""Pages: whole in themselves, escaped, and strict about what their templates need."""

import re
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from finetune.report.page import _environment, format_number, render

HOSTILE = "</td><script>alert(1)</script>&\x1b[2J\u202egnp.exe\x00"


def render_text(source: str, **values: object) -> str:
    return _environment().from_string(source).render(values)


@pytest.fixture
def escaping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Templates from a string are escaped as those of files are."""
    monkeypatch.setattr(_environment(), "autoescape", True)


@pytest.mark.usefixtures("escaping")
def test_text_from_data_can_neither_be_markup_nor_reorder_the_page() -> None:
    source = (
        '{% extends "base.html.j2" %}{% import "parts.html.j2" as parts %}{% block content %}'
        "{{ parts.table([text], [[text, 1.5]], text) }}{{ parts.pairs({text: text}) }}"
        '{{ parts.card("data:,", text, {text: text}) }}{% endblock %}'
    )
    page = render_text(source, text=HOSTILE)
    assert "<script" not in page
    assert not set("\x1b\u202e\x00") & set(page)
    assert page.count("&lt;script&gt;") == 9
    assert "\\u202egnp.exe" in page


@pytest.mark.usefixtures("escaping")
def test_a_page_loads_nothing() -> None:
    page = render_text('{% extends "base.html.j2" %}')
    assert not re.search(r"https?://|<script|@import|<link", page)
    assert "default-src 'none'" in page


def test_a_name_that_is_not_given_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        render_text("{{ scores }}")


@pytest.mark.parametrize("file", ["base.html.j2", "parts.html.j2"])
def test_files_are_escaped_by_their_name(file: str) -> None:
    autoescape = _environment().autoescape
    assert callable(autoescape)
    assert autoescape(file)
    assert not autoescape("report.md.j2")


def test_the_templates_are_rendered_by_name() -> None:
    assert render("base.html.j2").startswith("<!DOCTYPE html>")
    assert {file.suffix for file in Path("finetune/report/templates").iterdir()} == {".j2"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (96.3012, "96.3"),
        (0.12345, "0.1235"),
        (12345.678, "12,345.7"),
        (1797, "1,797"),
        (2.0, "2"),
        (1e-5, "1e-05"),
        (True, "True"),
        ("net", "net"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_have_four_digits(value: object, text: str) -> None:
    assert format_number(value) == text
