"""Pages: one HTML file each, with its images and plots inside, that needs no network and no script.

The templates are in `templates/`; a page extends `base.html.j2`, which has the style, and takes tables and
cards from `parts.html.j2`.
"""

from functools import cache
from typing import TYPE_CHECKING

from finetune.errors import printable

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, **values: object) -> str:
    """Return a page.

    Every value is escaped, except for those of type `markupsafe.Markup`, such as the plots of `plots.py`.
    Characters that would reorder or hide text are shown as `printable` writes them. A name that a template
    uses and that is not given is an error.

    Args:
        template: file in `finetune/report/templates/`, such as `report.html.j2`; `.md.j2` is not escaped.
        values: what the template names.
    """
    return _environment().get_template(template).render(values)


def format_number(value: object) -> str:
    """Return a number with four significant digits, such as `0.1234`, `96.3` and `12,345`.

    It is the filter `number` of the templates. Other values are returned as text, None as a dash.
    """
    if value is None:
        return "–"  # noqa: RUF001 -- a dash
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:,.1f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader("finetune.report"),
        autoescape=select_autoescape(enabled_extensions=("html.j2",)),
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["number"] = format_number
    return environment


def _finalize(value: object) -> object:
    """Make every text that a template writes readable; markup has been read before."""
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
