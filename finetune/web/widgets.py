"""Parts of the page: uploads, messages, and the form of a prompt."""

import html
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from gradio.utils import get_upload_folder

from finetune.errors import UserError
from finetune.web.answers import Upload
from finetune.web.forms import FREE, Field, Form, Kind
from finetune.web.view import explain, show_prompts

log = logging.getLogger(__name__)

_NOT_UPLOADED = "Upload the image as a file: addresses and files of the server are not read."


def read_uploads(payload: Any) -> list[Upload]:
    """Return uploaded files, from what the browser says of them.

    The images are decoded by `data/images.py`, whose limits Gradio's own components do not have.

    Args:
        payload: a file, or a list of them.

    Raises:
        UserError: one was not uploaded to this page.
    """
    files = payload if isinstance(payload, list) else [] if payload is None else [payload]
    root = Path(get_upload_folder()).resolve()
    uploads = []
    for one in files:
        given = one.get("path") if isinstance(one, Mapping) else None
        path = Path(given).resolve() if isinstance(given, str) and "\0" not in given else root
        if not (path.is_relative_to(root) and path.is_file()):
            raise UserError(_NOT_UPLOADED)
        uploads.append(Upload(path, str(one.get("orig_name") or path.name)))
    return uploads


def refuse_addresses(page: Any) -> None:
    """Keep a page from fetching the addresses that a program sends in place of uploaded files."""
    preprocess = page.preprocess_data

    async def check(function: Any, inputs: list[Any], *others: Any, **options: Any) -> Any:
        _check_files(inputs)
        return await preprocess(function, inputs, *others, **options)

    page.preprocess_data = check


def _check_files(value: Any) -> None:
    if isinstance(value, Mapping):
        if re.match(r"\s*\w+://", str(value.get("path"))):
            raise gr.Error(_NOT_UPLOADED, print_exception=False)
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            _check_files(item)


def explained(function: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """Return a function whose mistakes of the user are messages on the page.

    Args:
        function: may take a `progress`.
        names: of its other arguments, for programs that call it.
    """
    progress = [one for one in signature(function).parameters.values() if one.name == "progress"]

    @wraps(function)
    def call(*arguments: Any) -> Any:
        count = len(arguments) - len(progress)
        try:
            return function(*arguments[:count], **dict(zip(["progress"], arguments[count:], strict=False)))
        except UserError as error:
            raise gr.Error(explain(error), print_exception=False) from error
        except gr.Error:
            raise
        except Exception as error:
            log.exception("the page could not answer")
            text = f"A fault of the program, which its terminal describes: {html.escape(repr(error)[:200])}"
            raise gr.Error(text, print_exception=False) from error

    kind = Parameter.POSITIONAL_OR_KEYWORD
    parameters = [*(Parameter(name, kind) for name in names), *(one.replace(kind=kind) for one in progress)]
    call.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return call


class PromptForm(NamedTuple):
    """The widgets of a prompt."""

    forms: Sequence[Form]
    mode: Any
    """Which form is filled in."""
    widgets: list[tuple[Form, Field, Any]]
    groups: list[Any]
    """One of each form."""
    shown: Any
    """The prompt that will be asked."""

    @property
    def inputs(self) -> list[Any]:
        """The widgets, the mode first."""
        return [self.mode, *(widget for _, _, widget in self.widgets)]

    @property
    def names(self) -> list[str]:
        """A name for each of `inputs`."""
        names = ["form"]
        for form, field, _ in self.widgets:
            name = "prompt" if form.task is None else field.name
            names.append(f"{form.name}_{name}" if name in names else name)
        return [re.sub(r"\W", "_", name) for name in names]

    def read(self, mode: str, values: Sequence[object]) -> tuple[Form, dict[str, object]]:
        """Return the form that is filled in, and its values.

        Raises:
            UserError: there is no such form.
        """
        form = next((one for one in self.forms if one.name == mode), None)
        if form is None:
            raise UserError(f"No form `{mode}`. There are: {', '.join(one.name for one in self.forms)}.")
        mine = zip(self.widgets, values, strict=True)
        return form, {field.name: value for (owner, field, _), value in mine if owner is form}

    def preview(self, mode: str, *values: object) -> str:
        """Return the prompt that will be asked."""
        try:
            form, given = self.read(mode, values)
            return show_prompts(form.write(given)[0])
        except UserError as error:
            return show_prompts((), str(error))

    def fill_in(self, mode: str, given: Mapping[str, object]) -> list[Any]:
        """Return updates of `inputs` that fill in one form."""
        return [
            gr.update(value=mode),
            *(
                gr.update(value=_spell(field, given.get(field.name))) if form.name == mode else gr.skip()
                for form, field, _ in self.widgets
            ),
        ]


def _spell(field: Field, value: object) -> object:
    if field.kind == Kind.classes:
        return value or []
    return "\n".join(map(str, value)) if isinstance(value, list | tuple) else str(value or "")


def build_form(forms: Sequence[Form], start: str) -> PromptForm:
    """Build the widgets of the forms.

    Args:
        forms: of which one is shown at a time.
        start: name of the one that is shown first.
    """
    names = [form.name for form in forms]
    mode = gr.Radio(names, value=start, label="Prompt", visible=len(names) > 1, container=False)
    widgets, groups = [], []
    for form in forms:
        with gr.Group(visible=form.name == start and bool(form.fields)) as group:
            widgets += [(form, field, _build_widget(form, field)) for field in form.fields]
        groups.append(group)
    shown = gr.HTML(padding=False, elem_classes="ft-shown")
    built = PromptForm(forms, mode, widgets, groups, shown)
    shown.value = built.preview(start, *(getattr(widget, "value", None) for _, _, widget in widgets))
    quick: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}

    def show_group(name: str) -> list[Any]:
        return [gr.update(visible=form.name == name and bool(form.fields)) for form in forms]

    mode.change(show_group, mode, groups, **quick)
    for widget in built.inputs:
        widget.change(built.preview, built.inputs, shown, trigger_mode="always_last", **quick)
    return built


def _build_widget(form: Form, field: Field) -> Any:
    label = field.name.replace("_", " ")
    if field.kind == Kind.classes:
        return gr.Dropdown(
            list(field.known),
            value=field.start.splitlines(),
            multiselect=True,
            allow_custom_value=not field.known,
            label=label,
            info=f"None chosen: all {len(field.known)} classes."
            if field.known
            else "Type a class, then Enter.",
            interactive=True,
        )
    if field.kind == Kind.lines:
        return gr.Textbox(field.start, lines=4, label=label, info="One in each line.", interactive=True)
    if form.name == FREE:
        hint = "such as: caption en, answer en what is this?, detect cat"
        return gr.Textbox(field.start, lines=2, label="prompt", placeholder=hint, interactive=True)
    return gr.Textbox(field.start, label=label, lines=1, interactive=True)
