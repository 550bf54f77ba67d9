"""Pages: one HTML file each, with its images and plots inside, that needs no network and no script.

The templates are in `templates/`; a page extends `base.html.j2`, which has the style, and takes tables and
cards from `parts.html.j2`.
"""

import re
from functools import cache
from typing import TYPE_CHECKING

from finetune.errors import printable

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, /, package: str = "finetune.report", **values: object) -> str:
    """Return a page.

    Every value is escaped, except for those of type `markupsafe.Markup`, such as the plots of `plots.py`.
    Characters that would reorder or hide text are shown as `printable` writes them. A name that a template
    uses and that is not given is an error.

    Args:
        template: file in `templates/`, such as `report.html.j2`; `.md.j2` is not escaped.
        package: has the folder `templates/`.
        values: what the template names.
    """
    return _environment(package).get_template(template).render(values)


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


def format_cell(value: object) -> str:
    """Return a value on one line of Markdown, in which it is no markup; the filter `cell`."""
    line = " ".join(printable(format_number(value)).split())
    return re.sub(r"([\\`*<|\[\]])", r"\\\1", line)


def format_span(value: object) -> str:
    """Return a text on one line as a code span of Markdown, whatever it has; the filter `span`."""
    line = " ".join(printable(str(value)).split()) or " "
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    space = " " if line[0] == "`" or line[-1] == "`" else ""
    return f"{fence}{space}{line}{space}{fence}"


def format_code(value: object) -> str:
    """Return a text as a block of code of Markdown, whatever it has; the filter `code`."""
    text = printable(str(value))
    fence = "`" * max(3, max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    return f"{fence}text\n{text}\n{fence}\n"


@cache
def _environment(package: str = "finetune.report") -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader(package),
        autoescape=select_autoescape(enabled_extensions=("html.j2",)),
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "number": format_number,
        "cell": format_cell,
        "span": format_span,
        "code": format_code,
    }
    return environment


def _finalize(value: object) -> object:
    """Make every text that a template writes readable; markup has been read before."""
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return printable(value)
    return format_number(None) if value is None else value
