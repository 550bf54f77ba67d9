"""The command line: read the words, compose the config, hand it to the job they name.

Nothing here imports torch: help and mistakes answer before anything heavy is loaded.
"""

import ast
import importlib
import logging
import os
import re
import sys
import traceback
import warnings
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from finetune import signals
from finetune.config.checks import check
from finetune.config.compose import (
    CONF_DIR,
    add_recipe,
    forget_own_recipes,
    group_choices,
    known_recipes,
    register,
    to_run_config,
    write_recipe,
)
from finetune.config.help import GROUPS, job_help, overview
from finetune.config.messages import explain
from finetune.errors import UserError, suggest
from finetune.run.folder import Launch

JOBS = {
    "train": "train, evaluate, and leave an adapter (the default job)",
    "evaluate": "score a finished run (run=FOLDER), or model=ID adapter=ID_OR_FOLDER",
    "predict": "ask about pictures of your own (run=FOLDER image=FILE prefix=PROMPT)",
    "score": "score anybody's predictions (metric=NAME predictions=FILE), or a pipe's",
    "plan": "what learns and how many steps, without reading any weights",
}
"""Every job and its line in `--help`; `finetune/jobs/<name>.py` holds it."""

WITHOUT_DATA = {"predict", "score"}
"""Jobs that need no `dataset`."""

FREE_TEXT = re.compile(
    r"prefix|image|out|task\.(prompt|choice|separator|suffix)"
    r"|dataset\.(.+\.)?(root|train|validation|image_dir|separator)"
)
"""Keys whose values are people's own words, or files and splits such as `train[:90%]`; Hydra reads commas,
braces and brackets as its grammar."""

USER_MISTAKE = 2


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the words after `python -m finetune`; the process's own where null.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    forget_own_recipes()
    with signals.listening():
        return _answer(words)


def _answer(words: list[str]) -> int:
    """Run one command, and say in a line what ended it where it did not end by itself."""
    try:
        job, words = split_job(words)
        if "--help" in words or "-h" in words:
            print(job_help(job, _doc(job)) if job else overview(JOBS))
            return 0
        _run_hydra(job or "train", words)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if os.environ.get("FINETUNE_DEBUG") == "1":
            traceback.print_exc()
        message = str(error) if isinstance(error, UserError) else explain(error)
        _say(f"error: {message}")
        return USER_MISTAKE
    except signals.Interrupted as interrupted:
        _say(f"{interrupted}: stopped. {signals.advice()}".rstrip())
        return interrupted.exit_code
    return 0


def _say(text: str) -> None:
    """Print a message for the user, once however many processes there are."""
    if os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr, flush=True)


def split_job(words: list[str]) -> tuple[str | None, list[str]]:
    """Take the job's name off the words; null where it was left out.

    Raises:
        UserError: a bare word that names no job.
    """
    if not words or "=" in words[0] or words[0].startswith(("-", "+", "~")):
        return None, words
    if words[0] not in JOBS:
        known = ", ".join(JOBS)
        recipe = f" Did you mean recipe={words[0]}?" if words[0] in known_recipes() else ""
        near = recipe or suggest(words[0], list(JOBS))
        raise UserError(f"No job `{words[0]}`.{near} Known jobs: {known}.")
    return words[0], words[1:]


def rewrite(word: str, is_sweep: bool = False) -> list[str]:
    """Spell four conveniences in Hydra's own grammar.

    `recipe=FILE.yaml` and `run=FOLDER` make a file of the user's known as a recipe (a run's
    `config.yaml` is one); `model=ID_OR_FOLDER` is short for `model.path`; prompts, files and splits are
    taken as they are written, unless a sweep has several of them.

    Raises:
        UserError: the folder holds no run, or the key has dashes before it.
    """
    key, _, value = word.partition("=")
    if key.lstrip("-") in {"recipe", *GROUPS} and key.startswith("--"):
        raise UserError(f"{word}: options are written `key=value`, without dashes: {key.lstrip('-')}=NAME.")
    if key == "recipe" and value.endswith((".yaml", ".yml")) and Path(value).is_file():
        return [f"recipe={add_recipe(Path(value))}"]
    if key == "run":
        config = Path(value) / "config.yaml"
        if not config.is_file():
            raise UserError(f"{value} holds no run: there is no {config}. Known runs lie in runs/.")
        return [f"recipe={add_recipe(config)}", word]
    is_checkpoint = bool(re.fullmatch(r"[\w.-]+/[\w.-]+", value)) or Path(value).is_dir()
    is_hydras = is_sweep or re.fullmatch(r"""(["']).*\1|null""", value, re.DOTALL)
    if FREE_TEXT.fullmatch(key) and not is_hydras:
        # Hydra takes a backslash for one but before a quote.
        escaped = re.sub(r"(\\*)('|$)", lambda end: end[1] * 2 + end[2].replace("'", "\\'"), value)
        return [f"{key}='{escaped}'"]
    if key == "model" and value not in group_choices("model") and is_checkpoint:
        return ["model=own", f"model.path={value}"]
    return [word]


def _doc(job: str) -> str:
    """Read the job's own text without importing what it imports."""
    source = Path(__file__).with_name("jobs") / f"{job}.py"
    return ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""


def _run_hydra(job: str, words: list[str]) -> None:
    """Let Hydra read the words and call the job, once or for each run of a sweep.

    Args:
        job: its name.
        words: as the user typed them.
    """
    is_sweep = not {"-m", "--multirun"}.isdisjoint(words)
    rewritten = [new for word in words for new in rewrite(word, is_sweep)]
    register()
    # Hydra would print and exit by itself; raised errors reach `explain` instead.
    os.environ["HYDRA_FULL_ERROR"] = "1"

    mistakes: list[UserError] = []

    @hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")
    def run(composed: DictConfig) -> None:
        try:
            _run_job(job, composed, words)
        except UserError as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise  # Hydra says which run of the sweep it was
            mistakes.append(error)

    before = sys.argv
    sys.argv = [before[0], *rewritten]
    try:
        run()
    finally:
        sys.argv = before
    if mistakes:
        raise mistakes[0]


def _run_job(job: str, composed: DictConfig, words: list[str]) -> None:
    """Check one composed config and hand it to its job."""
    if job in WITHOUT_DATA:
        composed.dataset = None
    elif OmegaConf.is_missing(composed, "dataset"):
        raise UserError(
            f"No dataset: give recipe=NAME or dataset=NAME. Known recipes: {', '.join(known_recipes())}."
        )
    if OmegaConf.is_missing(composed.model, "path"):
        raise UserError("Which checkpoint? model=HUB_ID, model=FOLDER, or a choice such as model=tiny.")
    config = to_run_config(composed)
    check(config, composed)
    runtime = HydraConfig.get()
    choices = {key: value for key, value in runtime.runtime.choices.items() if value is not None}
    # A score of its own never lies in a training's folder.
    suffix = f"_{job}" if job == "evaluate" else ""
    name = config.run_name or f"{choices.get('recipe', 'run')}{suffix}"
    sweep = runtime.mode == RunMode.MULTIRUN
    if config.run is not None:
        folder = Path(config.run)
    elif sweep:
        folder = Path(runtime.runtime.output_dir)
    else:
        folder = Path(config.runs_dir) / name
    launch = Launch(
        folder=folder,
        recipe=write_recipe(composed, choices),
        command=[*_launcher(), "-m", "finetune", job, *words],
    )
    quiet_libraries()
    importlib.import_module(f"finetune.jobs.{job}").run(config, launch)


def _launcher() -> list[str]:
    """Return the program that started this process, as far as it can be told."""
    processes = os.environ.get("LOCAL_WORLD_SIZE")
    return ["python"] if processes is None else ["torchrun", "--nproc-per-node", processes]


def quiet_libraries() -> None:
    """Keep other libraries' chatter off the terminal, before they are imported.

    Deprecations inside transformers and peft, bitsandbytes' report of a CPU kernel that nobody needs,
    each retry of a Hub that cannot be reached. `FINETUNE_DEBUG=1` shows it all.
    """
    if os.environ.get("FINETUNE_DEBUG") == "1":
        return
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # its import sets the level of its logger
    for name in ("bitsandbytes", "httpx", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="(torch|peft|bitsandbytes)")
