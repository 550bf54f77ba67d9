"""Compare finished runs: what differs in their settings, their scores with 95 % intervals, and their cost.

`compare runs/a runs/b` names runs, `compare runs/quickstart_sweep` a sweep, whose runs are meant. The table
is printed; compare.html has it with plots, and compare.csv every score. For two runs with the same metric a
paired bootstrap over their common rows says whether the difference is more than chance; the page shows the
answers that differ with their images, and compare_rows.jsonl has all of them. No model is loaded.
"""

import logging
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.assembly.compared import compare_folders, image_loader
from finetune.comparison.page import write_page
from finetune.comparison.pairs import Pair, describe_pair
from finetune.comparison.runs import find_folders, list_members
from finetune.comparison.table import Comparison, write_csv, write_terminal
from finetune.config.jobs import Compare
from finetune.errors import UserError, printable
from finetune.result import CompareResult
from finetune.run.files import explain_disk_errors, read_json, write_jsonl, write_text
from finetune.run.folder import Launch

log = logging.getLogger(__name__)

_PAGE, _TABLE, _ROWS = "compare.html", "compare.csv", "compare_rows.jsonl"

_MARK = "finetune compare"
"""In the head of the page: such a folder may be written again."""


def run(options: Compare, launch: Launch) -> CompareResult:
    """Compare runs, and write the page and the table.

    Raises:
        UserError: a folder holds no finished run, or the files cannot be written.
    """
    folders, sweep = find_folders(options.runs)
    out = Path(options.out) if options.out else sweep or Path(options.runs_dir) / "compare"
    check_out(out)
    comparison, pair = compare_folders(folders, forgiving=sweep is not None)
    commands = suggest_commands(comparison) if sweep is not None else {}
    page = write_files(out, comparison, pair, commands)
    rows = [describe_row(comparison, number) for number in range(len(comparison.runs))]
    log.info("page: %s", page)
    table = write_lines(comparison, pair, commands)
    return CompareResult(table, page, rows, {} if pair is None else pair.differences)


def write_lines(comparison: Comparison, pair: Pair | None, commands: Mapping[str, str]) -> str:
    """Return what the terminal shows."""
    lines = [write_terminal(comparison, shutil.get_terminal_size().columns)]
    if pair is not None:
        lines += map(printable, describe_pair(pair, name_pair(comparison), comparison.main))
    lines += [f"{name}:\n  {printable(command)}" for name, command in commands.items()]
    return "\n".join(lines)


def show_sweep(folder: Path, failed: Mapping[str, str]) -> Path | None:
    """Log the table of a sweep that has just ended; whatever goes wrong, its runs are kept.

    Args:
        folder: of the sweep.
        failed: number of a run -> why it failed.

    Returns:
        The folder of the best run; None if the runs cannot be compared.
    """
    members = list_members(folder)
    try:
        if not members:
            return None
        check_out(folder)
        comparison, pair = compare_folders(members, forgiving=True)
        missing = {**comparison.missing, **{number: why.splitlines()[0] for number, why in failed.items()}}
        comparison = replace(comparison, missing=missing)
        commands = suggest_commands(comparison)
        page = write_files(folder, comparison, pair, commands)
    except UserError as error:
        log.warning("warning: the runs are not compared: %s", error)
    except Exception:  # hours of training must not fail for a table
        log.exception("the runs are not compared; python -m finetune compare %s", folder)
    else:
        log.info("%s\npage: %s", write_lines(comparison, pair, commands), page)
        scored = [run for run in comparison.runs if run.scores]
        best = scored[0] if len(scored) == 1 else comparison.best
        return None if best is None else best.folder
    return None


def suggest_commands(comparison: Comparison) -> dict[str, str]:
    """Return the commands that evaluate the best run, and that train it again."""
    best = comparison.best
    if best is None:
        return {}
    run = shlex.quote(f"run={best.folder}")
    commands = {f"Evaluate the best run, {best.name}": f"python -m finetune evaluate {run}"}
    environment = best.folder / "environment.json"
    words = read_json(environment).get("command") if environment.is_file() else None
    if isinstance(words, list):
        kept = [
            str(word) for word in words if not str(word).startswith(("run_name=", "resume=", "overwrite="))
        ]
        again = f"run_name={best.folder.parent.name}_best"
        commands["Train it again"] = shlex.join([*kept, again])
    return commands


def check_out(out: Path) -> None:
    """Check that the files may be written, before anything is read.

    Raises:
        UserError: `out` is a file, or holds files of these names that no comparison wrote.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"out={out} is a file. Expected a folder.")
    page = out / _PAGE
    is_ours = page.is_file() and _MARK in page.read_text(encoding="utf-8", errors="replace")[:20_000]
    for file in (page, out / _TABLE, out / _ROWS):
        if file.exists() and not is_ours:
            raise UserError(f"{file} is there, and no comparison wrote it. Choose another out=FOLDER.")


def write_files(out: Path, comparison: Comparison, pair: Pair | None, commands: Mapping[str, str]) -> Path:
    """Write the page, the table and, for a pair, the answers that differ; return the page.

    Args:
        out: the folder.
        comparison: the runs.
        pair: their rows, if they are two with the same metric.
        commands: what to do with the best run -> command.

    Raises:
        UserError: the disk is full, or may not be written.
    """
    html = write_page(comparison, pair, commands, image_loader(comparison.runs[0]) if pair else str)
    with explain_disk_errors(out):
        write_text(out / _TABLE, write_csv(comparison))
        if pair is not None:
            first, second = name_pair(comparison)
            rows = [
                {
                    "id": one.key[0],
                    "prefix": one.first.get("prefix"),
                    **{key: one.first[key] for key in ("references", "objects") if key in one.first},
                    first: one.first.get("prediction"),
                    second: one.second.get("prediction"),
                    "gain": one.gain,
                }
                for one in pair.differing
            ]
            write_jsonl(out / _ROWS, rows)
        else:
            (out / _ROWS).unlink(missing_ok=True)  # of an earlier comparison here
        write_text(out / _PAGE, html)
    return out / _PAGE


def name_pair(comparison: Comparison) -> tuple[str, str]:
    """Return the names of two runs."""
    return comparison.runs[0].name, comparison.runs[-1].name


def describe_row(comparison: Comparison, number: int) -> dict[str, Any]:
    """Return a row of the table as values."""
    run = comparison.runs[number]
    return {
        "run": str(run.folder),
        "settings": {key: run.settings.get(key) for key in comparison.settings},
        "scores": dict(run.scores),
        "intervals": {name: (one.low, one.high) for name, one in run.intervals.items()},
        "cost": dict(run.cost),
    }
