"""How the result of a run is loaded: the code that its report shows."""

import json
from pathlib import Path

from finetune.config.schema import RunConfig
from finetune.model.load import resolve_path
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
        "With transformers and peft alone": _show_plain(options, folder, prompt),
    }


def _show_plain(options: RunConfig, folder: RunFolder, prompt: str) -> str:
    is_adapter = folder.adapter.is_dir()
    result = folder.adapter if is_adapter else folder.model
    base = _read_base(result) if is_adapter else str(result)
    dtype = f'dtype="{options.model.dtype}"'
    lines = [
        "from peft import PeftModel" if is_adapter else "",
        "from PIL import Image",
        "from transformers import AutoProcessor, PaliGemmaForConditionalGeneration",
        "",
        f"model = PaliGemmaForConditionalGeneration.from_pretrained({base!r}, {dtype})",
        f"model = PeftModel.from_pretrained(model, {str(result)!r})" if is_adapter else "",
        f"processor = AutoProcessor.from_pretrained({str(result)!r})",
        f"prompt = {prompt!r}",
        'image = Image.open("image.jpg").convert("RGB")',
        'inputs = processor(text="<image>" + prompt, images=image, return_tensors="pt").to(model.dtype)',
        f"answer = model.generate(**inputs, max_new_tokens={options.evaluation.max_new_tokens or 128})",
        'start = inputs["input_ids"].shape[1]',
        "print(processor.decode(answer[0, start:], skip_special_tokens=True))",
    ]
    return "\n".join(line for number, line in enumerate(lines) if line or number == 3)


def _read_base(adapter: Path) -> str:
    """Return the model that the adapter was trained on, by the adapter's own file."""
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    return resolve_path(str(config["base_model_name_or_path"]))
