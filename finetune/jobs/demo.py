"""Show a finished run (run=FOLDER), or any checkpoint and adapter, on a page in the browser.

One image or several: uploaded, pasted, or from the webcam; the prompt of the run's task with its fields,
or a whole prompt; the answer with its confidence, boxes and masks drawn in. The model is read once and
answers one request at a time. Only this machine reaches the page unless `host=` says otherwise, and it
asks nothing of other servers. Ctrl-C ends it.

`export=FOLDER` writes the folder of a Space of the Hub instead, which shows the same page.
"""

import logging
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from finetune.assembly.finished import resolve_finished_run
from finetune.assembly.predictor import Predictor
from finetune.assembly.prompts import build_prompt_task
from finetune.config.publishing import Demo
from finetune.jobs.predict import find_example
from finetune.run.folder import Launch, RunFolder
from finetune.run.results import read_metrics
from finetune.web.answers import Answerer
from finetune.web.examples import find_offers
from finetune.web.forms import build_forms
from finetune.web.result import DemoResult
from finetune.web.server import (
    Server,
    build_apart,
    import_gradio,
    is_loopback,
    mount,
    name_url,
    open_port,
    quiet_gradio,
)
from finetune.web.space import export_space

log = logging.getLogger(__name__)

_OPEN = "everybody who reaches this machine can ask the model; there is no password"


def run(options: Demo, launch: Launch) -> DemoResult:
    """Serve the page, or write the Space.

    Returns:
        The page, which is served until it is closed.

    Raises:
        UserError: there is no finished run, the port is in use, or Gradio is missing.
    """
    folder = RunFolder(launch.folder)
    finished = resolve_finished_run(options, folder)
    if options.export is not None:
        return DemoResult(folder=export_space(options, folder))
    import_gradio()
    with ExitStack() as stack:
        # Before the weights are read: that may take minutes.
        listener = stack.enter_context(open_port(options.host, options.port))
        if not is_loopback(options.host):
            log.warning("warning: host=%s: %s", options.host, _OPEN)
        files = Path(
            stack.enter_context(TemporaryDirectory(prefix="finetune-demo-", ignore_cleanup_errors=True))
        )
        forms = build_forms(build_prompt_task(options), options.fields, options.prefix or "")
        count = 0 if options.run is None else options.examples
        offers = find_offers(finished, count, forms, files, folder.mask_vae.is_file())
        answerer = Answerer(
            Predictor(options, folder), options, find_example(folder) if options.run else ""
        )
        stack.callback(answerer.close)
        metrics = read_metrics(folder) if options.run else {}
        most = round(options.max_upload_mb * 1_000_000)

        def build() -> Any:
            page = import_module("finetune.web.page")
            built = page.Page(options, answerer, forms, offers, metrics, files)
            return mount(built.blocks, listener, files, most, page.build_look())

        with quiet_gradio():
            app = build_apart(build)
        stack.callback(Server(app, listener).close)
        return DemoResult(url=name_url(listener, options.host), stop=stack.pop_all().close)
