"""Merge an adapter into its base, as a plain model for any program (run=FOLDER out=FOLDER).

The folder has the model, its processor, its card and, for masks, `mask_vae.npz`. `from_pretrained` of
transformers loads it without PEFT and without this package. Before it gets its name it is loaded again and
compared with the adapter: every weight, and the logits of examples. If they differ by more than rounding,
nothing is left.

Without `run=`, any adapter: model=ID adapter=ID_OR_FOLDER, with peft=qlora if it was trained on 4 bits. A
run in which every weight learned has nothing to merge: its model is converted to `dtype`, and compared too.
"""

import logging
import shlex
import shutil
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from finetune.assembly.finished import load_trained, resolve_finished_run
from finetune.assembly.model import half_precision
from finetune.assembly.samples import Samples, draw_samples
from finetune.config.publishing import Merge, MergedBase
from finetune.data.options import Mixture
from finetune.errors import UserError
from finetune.model.agreement import (
    Agreement,
    check_weights,
    compare_logits,
    compute_logits_in_float32,
    sample_weights,
)
from finetune.model.load import build_meta_model, load_config, load_processor
from finetune.model.merge import merge
from finetune.model.options import AdapterBase
from finetune.processes import count_processes
from finetune.publish.card import write_card
from finetune.publish.facts import read_facts
from finetune.publish.results import MergeResult
from finetune.run.checkpoints import digest_weights
from finetune.run.files import write_json, write_text
from finetune.run.folder import Launch, RunFolder
from finetune.run.out_folder import OutFolder

log = logging.getLogger(__name__)

FACTS = "merge.json"
"""File of a merged model that says where it comes from."""


@dataclass(frozen=True)
class Comparison:
    """How a merged model compares with what it was made of."""

    agreement: Agreement
    """With the adapter on the base that it was merged into."""
    to_run: Agreement
    """With the adapter on the weights that it was trained on."""
    answered_alike: int
    """Examples that the merged model answers like the run."""


def run(options: Merge, launch: Launch, *, stays: bool = True) -> MergeResult:
    """Merge, save, load and compare.

    Args:
        options: of the job.
        launch: how it was started.
        stays: whether the folder is the user's; else another job sends it and deletes it.

    Raises:
        UserError: the folder may not be written, the adapter does not fit, or the merged model does not
            compute what the adapter computes.
    """
    if options.out is None or count_processes() > 1:
        raise UserError(
            "`merge` needs out=FOLDER and one process: `python -m finetune merge`, no torchrun."
        )
    folder, target = RunFolder(launch.folder), Path(options.out)
    out = OutFolder(target.resolve() if target.is_symlink() else target, "merge")
    out.check(overwrite=options.overwrite)
    trained = resolve_finished_run(options, folder)
    checkpoint = check_before(trained, out.root)
    processor = load_processor(trained.model.path, trained.model.revision)
    samples = draw_samples(options, processor, options.examples)
    with out.writing(overwrite=options.overwrite) as partial:
        comparison = write_merged(trained, checkpoint, processor, samples, partial)
        if options.run is not None and folder.mask_vae.is_file():
            shutil.copyfile(folder.mask_vae, partial / folder.mask_vae.name)
        if options.run is not None:
            write_text(partial / "README.md", write_card(read_facts(folder.root), merged=trained.dtype))
        write_json(partial / FACTS, describe(trained, samples, comparison))
    report(trained, samples, comparison, stays=stays)
    count = len(samples.examples)
    return MergeResult(
        folder=target,
        difference=comparison.agreement.greatest,
        agreement=100 * comparison.answered_alike / count,
        examples=count,
    )


def check_before(trained: Merge, out: Path) -> PaliGemmaConfig:
    """Check options, folder and disk, before anything slow is done.

    Args:
        trained: options with the model or adapter of the run.
        out: the folder to write.

    Returns:
        The configuration of the checkpoint.

    Raises:
        UserError: the folder is that of a source, the disk is too small, or `into=` does not apply.
    """
    if trained.into is not None and (trained.peft.bits == 16 or trained.adapter is None):
        raise UserError(
            f"into={trained.into} is about an adapter on quantized weights, but these have 16 bits: leave "
            "it out. Without run=, peft=qlora says that the adapter was trained on 4 bits."
        )
    sources = {"run": trained.run, "model": trained.model.path, "adapter": trained.adapter}
    for key, path in sources.items():
        if path is None or not Path(path).is_dir():
            continue
        source, target = Path(path).resolve(), out.resolve()
        if target.is_relative_to(source) or source.is_relative_to(target):
            raise UserError(
                f"out={trained.out} and {key}={path} are one folder, or one is inside the other. Choose "
                "another out=FOLDER."
            )
    model, dtype = trained.model, getattr(torch, trained.dtype)
    checkpoint = load_config(model.path, model.revision, model.resolution)
    parameters = build_meta_model(load_config(model.path, model.revision), dtype).num_parameters()
    parent = next(path for path in out.absolute().parents if path.is_dir())
    needed, free = parameters * dtype.itemsize, shutil.disk_usage(parent).free
    if free < needed:
        raise UserError(
            f"out={trained.out} needs {needed / 2**30:.2f} GiB, and its disk has {free / 2**30:.2f} GiB "
            "left. Free some space, or choose another out=FOLDER."
        )
    return checkpoint


def write_merged(
    trained: Merge,
    checkpoint: PaliGemmaConfig,
    processor: PaliGemmaProcessor,
    samples: Samples,
    folder: Path,
) -> Comparison:
    """Merge, save into a folder, load what was saved, and compare.

    One model at a time is in the memory: of each only samples of its weights, logits and answers are kept.

    Raises:
        UserError: the adapter does not fit, or the merged model does not compute what the adapter computes.
    """
    model = load_trained(trained, checkpoint)
    device = next(model.parameters()).device
    answers = samples.answer(model, trained.evaluation, half_precision(trained.trainer))
    of_run = reference = compute_logits_in_float32(model, samples.build_batches())
    if trained.into == MergedBase.original:
        del model
        # It was asked for: the difference from the run is measured and reported.
        peft, check = replace(trained.peft, bits=16), AdapterBase.any
        original = replace(trained, peft=peft, adapter_base=check)
        model = load_trained(original, load_config(trained.model.path, trained.model.revision))
        reference = compute_logits_in_float32(model, samples.build_batches())
    weights = sample_weights(model)
    dtype = getattr(torch, trained.dtype)
    save(merge(model, dtype), processor, folder)
    del model  # used up
    merged = PaliGemmaForConditionalGeneration.from_pretrained(folder, dtype=dtype).to(device).eval()
    alike = samples.answer(merged, trained.evaluation, nullcontext())
    check_weights(weights, merged)
    logits = compute_logits_in_float32(merged, samples.build_batches())
    agreement = compare_logits(reference, logits, merged, dtype)
    agreement.check(trained.dtype)
    return Comparison(
        agreement,
        compare_logits(of_run, logits, merged, dtype),
        sum(before == after for before, after in zip(answers, alike, strict=True)),
    )


def save(model: PaliGemmaForConditionalGeneration, processor: PaliGemmaProcessor, folder: Path) -> None:
    """Save a model as transformers does, with its processor."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def describe(trained: Merge, samples: Samples, comparison: Comparison) -> dict[str, object]:
    """Return where a merged model comes from, and how it compares with that."""
    adapter = None if trained.adapter is None else Path(trained.adapter)
    return {
        "run": None if trained.run is None else str(Path(trained.run).absolute()),
        "model": {"path": trained.model.path, "revision": trained.model.revision},
        "adapter": trained.adapter,
        "adapter_sha256": digest_weights(adapter) if adapter is not None and adapter.is_dir() else None,
        "bits": trained.peft.bits,
        "into": choose_base(trained),
        "dtype": trained.dtype,
        "compared_with": f"{len(samples.examples)} {samples.origin}",
        "answered_alike": comparison.answered_alike,
        "logits": asdict(comparison.agreement),
        "logits_of_run": asdict(comparison.to_run),
    }


def choose_base(trained: Merge) -> MergedBase | None:
    """Return what an adapter on quantized weights is merged into; None for any other."""
    if trained.peft.bits == 16 or trained.adapter is None:
        return None
    return trained.into or MergedBase.quantized


def report(trained: Merge, samples: Samples, comparison: Comparison, *, stays: bool) -> None:
    """Log how the merged model compares, and how it is scored."""
    if trained.adapter is None:
        log.info("every weight learned, so that there is nothing to merge: the model was converted")
    base = choose_base(trained)
    into = "" if base is None else f", merged into the {base} weights"
    name = trained.out if stays else "the merged model"
    log.info("%s is a plain model in %s%s", name, trained.dtype, into)
    agreement, count = comparison.agreement, len(samples.examples)
    log.info(
        "logits of %d %s: greatest difference %.2g, %.2g %% of their spread; rounding may make %.2g %%",
        count,
        samples.origin,
        agreement.greatest,
        100 * agreement.relative,
        100 * agreement.tolerance,
    )
    if base == MergedBase.original:
        log.info(
            "from the run, whose base is in %d bits, they differ by %.2g, %.2g %% of their spread",
            trained.peft.bits,
            comparison.to_run.greatest,
            100 * comparison.to_run.relative,
        )
    log.info("answers: %d of %d are those of the run", comparison.answered_alike, count)
    if trained.run is not None and stays:
        log.info("score it: %s", evaluate_command(trained))


def evaluate_command(trained: Merge) -> str:
    """Return the command that scores the merged model as its run was scored."""
    words = [
        f"recipe={trained.run}/config.yaml",
        f"model={trained.out}",
        "peft=none",
        f"model.dtype={trained.dtype}",
        f"run_name={Path(str(trained.out)).name}_evaluate",
    ]
    vae = Path(str(trained.out), "mask_vae.npz")
    if vae.is_file() and not isinstance(trained.dataset, Mixture):
        words.append(f"task.mask_vae={vae}")
    return shlex.join(["python", "-m", "finetune", "evaluate", *words])
