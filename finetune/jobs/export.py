"""Write the result of a run for browsers and other runtimes (run=FOLDER out=FOLDER).

The adapter is merged, the model is exported as the three graphs that Transformers.js runs, and their
answers to up to 100 prompts are compared with the model's. Only then is the folder written, with a page
that runs the graphs in the browser.
"""

import importlib.util
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import init_empty_weights
from torch import Tensor
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.assembly.custom import build_metric, object_options
from finetune.assembly.finished import load_trained, resolve_finished_run
from finetune.assembly.samples import Samples, draw_samples
from finetune.config.publishing import Export
from finetune.data.batches.options import Resize
from finetune.data.images import MAX_PIXELS
from finetune.errors import UserError
from finetune.evaluation.evaluate import begin_row, finish_row
from finetune.example import Example, Pixels, Prompts
from finetune.generation.answerer import UNKNOWN_LENGTH
from finetune.generation.generate import generate_tokens, read_answers
from finetune.generation.options import GenerationOptions
from finetune.metrics.metric import Metric, compute_by_group
from finetune.model.features import spread_pixels
from finetune.model.load import load_config, load_processor
from finetune.model.merge import merge
from finetune.onnx.options import ExportDtype
from finetune.onnx.page import find_runtime, write_page
from finetune.onnx.parity import Reference, compare
from finetune.onnx.result import ExportResult
from finetune.onnx.settings import describe_images, describe_model
from finetune.progress import track
from finetune.result import choose_objective
from finetune.run.files import write_json
from finetune.run.folder import Launch, RunFolder
from finetune.run.out_folder import OutFolder
from finetune.tasks.task import Task

if TYPE_CHECKING:
    from finetune.onnx.session import OnnxModel

log = logging.getLogger(__name__)

_BATCH = 10
"""Prompts answered at once: more gains nothing on a CPU, and costs memory."""
_MOST_SAMPLES = 100
"""With them a share of agreement is known to a few percent."""
_MOST_PROMPTS = 20
"""Prompts that the page offers."""
_WEIGHTS = {ExportDtype.fp32: "weights in 32 bits", ExportDtype.q8: "weights in 8 bits"}
_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


@dataclass(frozen=True)
class Asked:
    """A batch of samples with answers."""

    examples: Sequence[Example]
    prompts: Prompts
    tokens: Tensor
    """(B, steps) ids."""
    probabilities: Tensor
    """(B, steps), of these tokens."""


def run(options: Export, launch: Launch) -> ExportResult:
    """Export the model of a finished run.

    Raises:
        UserError: the run is not finished, `out=` is not an export's, a package is missing, or the graphs
            do not answer as the model does.
    """
    if options.out is None:
        raise UserError("Where to? out=FOLDER, for the graphs and the page.")
    check_packages()
    from finetune.onnx.session import OnnxModel

    target = OutFolder(Path(options.out), "export")
    target.check(overwrite=options.overwrite)
    runtime = None if options.runtime is None else find_runtime(Path(options.runtime))
    folder = RunFolder(launch.folder)
    options = resolve_finished_run(options, folder)
    processor = load_processor(options.model.path, options.model.revision)
    samples = draw_samples(options, processor, _MOST_SAMPLES)
    model = load_merged(options)
    steps = options.evaluation.max_new_tokens or UNKNOWN_LENGTH
    asked = ask_model(model, samples, steps)
    with target.writing(overwrite=options.overwrite) as partial:
        write_model(model, processor, options, steps, partial)
        image_token = model.config.image_token_id
        del model  # before the graphs need as much memory
        graphs = OnnxModel(partial / "onnx", options.dtype, image_token)
        result = check_graphs(options, graphs, samples, asked, steps)
        files = {file.name: file.stat().st_size for file in sorted((partial / "onnx").iterdir())}
        write_page(partial, describe_page(options, folder, processor, samples, result), runtime)
    log.info("export: %s", target.root)
    return replace(result, files=files)


def check_packages() -> None:
    """Check that the packages of the extra are installed.

    Raises:
        UserError: one is not.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"format=onnx needs the packages {', '.join(missing)}: pip install 'finetune-paligemma[onnx]'."
        )


def load_merged(options: Export) -> PaliGemmaForConditionalGeneration:
    """Load a run's model with its adapter merged in, in float32 on the CPU, in evaluation mode."""
    checkpoint = load_config(options.model.path, options.model.revision)
    merged = merge(load_trained(options, checkpoint), torch.float32)
    # A merged model is made to be saved: what is not saved has to be computed anew.
    with init_empty_weights(include_buffers=False):
        model = PaliGemmaForConditionalGeneration(merged.config)
    model.load_state_dict(merged.state_dict(), assign=True)
    model.tie_weights()
    # The other kernels cannot be exported, or do not compute Gemma 2's soft-cap.
    model.set_attn_implementation("eager")
    return model.eval()


@torch.no_grad()
def ask_model(model: PaliGemmaForConditionalGeneration, samples: Samples, steps: int) -> list[Asked]:
    """Return the samples with the model's greedy answers of at most `steps` tokens."""
    tokenizer, examples = samples.collator.tokenizer, samples.examples
    parts = [examples[start : start + _BATCH] for start in range(0, len(examples), _BATCH)]
    greedy = GenerationOptions(max_new_tokens=steps)
    asked = []
    for part in track(parts, "ask the model", "batch", leave=False):
        # As the graphs take them.
        pixels: Pixels = {"pixel_values": spread_pixels(samples.collator.build_pixels(part))}
        prompts = samples.collator.build_prompts(part, pixels)
        tokens, probabilities = generate_tokens(model, prompts, tokenizer, greedy)
        asked.append(Asked(part, prompts, tokens, probabilities))
    return asked


def write_model(
    model: PaliGemmaForConditionalGeneration,
    processor: PaliGemmaProcessor,
    options: Export,
    steps: int,
    folder: Path,
) -> None:
    """Write the graphs, and the files that Transformers.js reads with them; uses up the model."""
    from finetune.onnx.graphs import build_graphs
    from finetune.onnx.write import write_graph

    (folder / "onnx").mkdir()
    parts = {}
    for graph in track(build_graphs(model), "export", "graph", leave=False):
        file, parts[graph.name] = write_graph(graph, folder / "onnx", options.dtype)
        log.info("written: %s", file.name)
    tokenizer = processor.tokenizer
    tokenizer.save_pretrained(folder)
    write_json(folder / "config.json", describe_model(model.config, options.dtype, parts))
    write_json(folder / "preprocessor_config.json", describe_images(processor))
    generation = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "do_sample": False,
        "max_new_tokens": steps,
    }
    write_json(folder / "generation_config.json", generation)


def check_graphs(
    options: Export, graphs: "OnnxModel", samples: Samples, asked: list[Asked], steps: int
) -> ExportResult:
    """Compare the written graphs with the model's answers.

    Raises:
        UserError: they do not agree.
    """
    end = samples.collator.tokenizer.eos_token_id
    references = [Reference(batch.prompts, batch.tokens.numpy()) for batch in asked]
    parity = compare(graphs, track(references, "compare", "batch", leave=False), end)
    parity.check(options.dtype)
    scores: dict[str, Any] = {}
    model_scores: dict[str, Any] = {}
    metric = build_metric(options)
    if samples.task is not None:
        scores = model_scores = score(metric, samples.task, samples, asked)
        if parity.equal < parity.answers:
            answers = [ask_graphs(graphs, batch, end, steps) for batch in asked]
            scores = score(metric, samples.task, samples, answers)
    return ExportResult(
        folder=Path(str(options.out)),
        files={},
        parity=parity,
        samples=f"{len(samples.examples)} {samples.origin}",
        scores=scores,
        model_scores=model_scores,
        has_runtime=options.runtime is not None,
        objective=choose_objective(scores, None, metric),
    )


def ask_graphs(graphs: "OnnxModel", batch: Asked, end: int, steps: int) -> Asked:
    """Return a batch with the answers of the graphs."""
    answers = graphs.answer(batch.prompts, end, steps)
    tokens, probabilities = torch.from_numpy(answers.tokens), torch.from_numpy(answers.probabilities)
    return Asked(batch.examples, batch.prompts, tokens, probabilities)


def score(metric: Metric, task: Task, samples: Samples, asked: list[Asked]) -> dict[str, Any]:
    """Return the scores of answers to examples of the data."""
    tokenizer = samples.collator.tokenizer
    rows = [
        finish_row(begin_row(example), text, task, metric)
        for batch in asked
        for example, text in zip(
            batch.examples, read_answers(batch.tokens, batch.probabilities, tokenizer), strict=True
        )
    ]
    return compute_by_group(metric, rows)


def describe_page(
    options: Export,
    folder: RunFolder,
    processor: PaliGemmaProcessor,
    samples: Samples,
    result: ExportResult,
) -> dict[str, object]:
    """Return what the page must know: the prompts, and how the run reads images and boxes."""
    kernel = options.image.resize.value
    if kernel == Resize.paper and all(example.antialias for example in samples.examples):
        kernel = "paper_antialiased"
    objects = object_options(options.task)
    parity = result.parity
    prompts = read_prefixes(folder) or list(dict.fromkeys(example.prefix for example in samples.examples))
    return {
        "title": folder.root.absolute().name,
        "about": f"A fine-tuned PaliGemma, {_WEIGHTS[options.dtype]}. On {result.samples}, {parity.equal} "
        f"of {parity.answers} answers of this export are the same as the model's.",
        "prompts": prompts[:_MOST_PROMPTS],
        "side": processor.image_processor.size["height"],
        "kernel": kernel,
        "divisor": 1023 if objects is None else objects.divisor,
        "most_pixels": MAX_PIXELS,
    }


def read_prefixes(folder: RunFolder) -> list[str]:
    """Return the first different prompts that a run was evaluated with."""
    prefixes: dict[str, None] = {}
    try:
        with (folder.predictions / "validation.jsonl").open(encoding="utf-8") as lines:
            for line in islice(lines, _MOST_SAMPLES):
                prefixes[str(json.loads(line)["prefix"])] = None
    except (OSError, ValueError, KeyError, TypeError):
        return list(prefixes)
    return list(prefixes)
