"""How the result of a run is loaded: the code that its report shows."""

from finetune.config.schema import RunConfig
from finetune.publish.facts import read_facts
from finetune.publish.loading import show_code
from finetune.run.folder import RunFolder


def show_usage(options: RunConfig, folder: RunFolder, prompt: str) -> dict[str, str]:
    """Return code that loads the result of a run, by title; empty if there is none.

    Args:
        options: options of the run.
        folder: its folder.
        prompt: an example.
    """
    if not (folder.adapter.is_dir() or folder.model.is_dir()):
        return {}
    root = str(folder.root)
    return {
        "On the command line": f"python -m finetune predict run={root} image=FILE prefix={prompt!r}",
        "From Python": (
            "import finetune\n\n"
            f"model = finetune.load(run={root!r})\n"
            f'model.ask("image.jpg", {prompt!r})["prediction"]'
        ),
        "With transformers and peft alone": _show_plain(folder),
    }


def _show_plain(folder: RunFolder) -> str:
    facts = read_facts(folder.root)
    return show_code(facts, folder=str(folder.root / facts.kind.value))
