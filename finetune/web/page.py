"""The page: images and a prompt in, answers, boxes and masks out."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from finetune.config.publishing import Demo
from finetune.errors import UserError
from finetune.run.files import write_jsonl
from finetune.web.answers import Answered, Answerer
from finetune.web.examples import Offer
from finetune.web.forms import FREE, Form, Kind
from finetune.web.view import (
    NOTHING_YET,
    name_model,
    show_answer,
    show_batch,
    show_header,
)
from finetune.web.widgets import PromptForm, build_form, explained, read_uploads, refuse_addresses

_FONTS = ("ui-sans-serif", "system-ui", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
_KEPT = 3600
"""Seconds that an uploaded file is kept."""
_WAITING = 64
"""Most requests that wait for the model."""

_ONE = "Choose an image and ask.<br>The answer, and boxes and masks where there are any, will be here."
_SEVERAL = "Choose some images.<br>The answers will be in a table here, to be downloaded as JSON lines."


_PROGRESS = gr.Progress()
"""Gradio finds it as the default of an argument."""


def build_look() -> dict[str, Any]:
    """Return theme and style: fonts of the reader's system, so that nothing is fetched."""
    theme = gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=_FONTS, font_mono=_MONO)
    return {"theme": theme, "css_paths": [Path(__file__).with_name("page.css")]}


class Page:
    """The page of one model.

    Args:
        options: limits and texts.
        answerer: asks the model.
        forms: of the run's tasks.
        offers: examples.
        metrics: content of the run's `metrics.json`.
        folder: for downloads.
    """

    def __init__(
        self,
        options: Demo,
        answerer: Answerer,
        forms: Sequence[Form],
        offers: Sequence[Offer],
        metrics: Mapping[str, Any],
        folder: Path,
    ) -> None:
        self._options = options
        self._answerer = answerer
        self._forms = forms
        self._offers = offers
        self._folder = folder
        self._start = FREE if options.prefix is not None else forms[0].name
        title = name_model(options)
        with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(_KEPT, _KEPT)) as self.blocks:
            gr.HTML(show_header(options, metrics), padding=False)
            with gr.Tab("One image"):
                self._build_single()
            with gr.Tab("Several images"):
                self._build_several()
        refuse_addresses(self.blocks)
        self.blocks.queue(max_size=_WAITING, api_open=False)

    def _build_single(self) -> None:
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                image = gr.Image(
                    label="Image",
                    sources=["upload", "webcam", "clipboard"],
                    placeholder="Drop an image here, or click",
                    height=300,
                    buttons=["fullscreen"],
                    elem_classes="ft-image",
                )
                form = build_form(self._forms, self._start)
                button = gr.Button("Ask", variant="primary", elem_classes="ft-ask")
            with gr.Column(scale=6, min_width=320):
                drawn = gr.Image(
                    label="Objects", format="png", interactive=False, visible=False,
                    buttons=["download", "fullscreen"], elem_classes="ft-drawn",
                )  # fmt: skip
                result = gr.HTML(NOTHING_YET.format(_ONE), padding=False)
                with gr.Accordion("Prediction row", open=False, visible=False) as details:
                    row = gr.JSON(show_label=False, container=False)
                examples = self._build_examples() if self._offers else None
        outputs = [drawn, result, row, details]
        ask = explained(self._ask(form), ["image", *form.names])
        asked: dict[str, Any] = {
            "inputs": [image, *form.inputs],
            "outputs": outputs,
            "show_progress_on": [result],
            "preprocess": False,
        }
        button.click(ask, **asked, api_name="ask")
        for _, field, widget in form.widgets:
            if field.kind == Kind.text:
                widget.submit(ask, **asked, api_visibility="private")
        if examples is not None:
            asked["inputs"] = [examples, *asked["inputs"]]
            chosen = examples.click(
                self._choose(form), examples, [image, *form.inputs], queue=False, show_progress="hidden",
                api_visibility="private",
            )  # fmt: skip
            chosen.success(
                explained(self._ask_example(form), ["example", "image", *form.names]),
                **asked,
                api_visibility="private",
            )

    def _ask(self, form: PromptForm) -> Callable[..., Any]:
        def ask(image: object, mode: str, *values: object) -> tuple[Any, ...]:
            return self._show(image, form, mode, values)

        return ask

    def _ask_example(self, form: PromptForm) -> Callable[..., Any]:
        def ask(index: int, image: object, mode: str, *values: object) -> tuple[Any, ...]:
            return self._show(image, form, mode, values, self._offers[index])

        return ask

    def _show(
        self,
        image: object,
        form: PromptForm,
        mode: str,
        values: Sequence[object],
        offer: Offer | None = None,
    ) -> tuple[Any, ...]:
        """Ask about one image, and return what is shown: the drawing, the answer, its row.

        Raises:
            UserError: there is no image or no prompt, or they cannot be used.
        """
        if not (uploads := read_uploads(image)):
            raise UserError("Which image? Upload one, paste it, or take a photo.")
        answered = self._answerer.ask(uploads[0], *form.read(mode, values))
        truth = () if offer is None else offer.objects
        seen = bool(answered.objects or truth)
        drawn = self._answerer.draw(answered, truth) if seen else None
        label = "Objects; the true ones dashed" if truth else "Objects"
        rows = answered.rows[0] if len(answered.rows) == 1 else answered.rows
        longest = self._options.evaluation.max_new_tokens
        text = show_answer(answered, longest, "" if offer is None else offer.answer)
        return gr.update(value=drawn, visible=seen, label=label), text, rows, gr.update(visible=True)

    def _build_examples(self) -> Any:
        samples = [[str(offer.small)] for offer in self._offers]
        return gr.Dataset(
            components=["image"], samples=samples, type="index", label="Validation examples",
            samples_per_page=len(samples), elem_classes="ft-examples",
        )  # fmt: skip

    def _choose(self, form: PromptForm) -> Callable[..., Any]:
        def choose(index: int) -> list[Any]:
            offer = self._offers[index]
            return [gr.update(value=str(offer.image)), *form.fill_in(offer.form, offer.values)]

        return choose

    def _build_several(self) -> None:
        most = self._options.max_images
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                label = f"Images, at most {most}"
                files = gr.File(file_count="multiple", file_types=["image"], label=label, height=200)
                form = build_form(self._forms, self._start)
                button = gr.Button("Ask about all", variant="primary", elem_classes="ft-ask-all")
            with gr.Column(scale=6, min_width=320):
                result = gr.HTML(NOTHING_YET.format(_SEVERAL), padding=False)
                label = "Download predictions.jsonl"
                download = gr.DownloadButton(label, visible=False, elem_classes="ft-download")

        def ask_all(
            images: object, mode: str, *values: object, progress: Any = _PROGRESS
        ) -> tuple[Any, ...]:
            if not (uploads := read_uploads(images)):
                raise UserError("Which images? Upload some.")
            if len(uploads) > most:
                raise UserError(f"Expected at most {most} images at once, but got {len(uploads)}.")
            total = len(uploads)
            answers = self._answerer.ask_all(
                uploads, *form.read(mode, values), lambda done: progress((done, total), unit="images")
            )
            drawn = [None if one.fault else self._answerer.draw(one) for one in answers]
            file = self._write(answers)
            return show_batch(answers, drawn), gr.update(value=str(file), visible=True)

        button.click(
            explained(ask_all, ["images", *form.names]),
            [files, *form.inputs],
            [result, download],
            api_name="ask_all",
            show_progress_on=[result],
            preprocess=False,
        )

    def _write(self, answers: Sequence[Answered]) -> Path:
        """Write the rows of the images that were answered, as `predict` does."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        file = folder / "predictions.jsonl"
        write_jsonl(file, (row for one in answers for row in one.rows))
        return file
