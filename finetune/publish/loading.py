"""The code that loads a result with transformers and peft alone, and answers as the run's evaluation did.

A text is the same only if pixels, formats and products are: images are resized by Pillow with the run's
kernel, what learned stays in float32, and products are computed under the run's autocast.
"""

import json
from collections.abc import Iterator

from finetune.publish.facts import ResultKind, RunFacts

_WINDOW = 2**24
"""Tokens; a window of this length hides nothing (`use_as_big_vision` in `model/load.py`)."""

_MODEL = "PaliGemmaForConditionalGeneration"
_WIDEST = 100

_KERNELS = {"bilinear": 2}
"""`image.resize` -> Pillow's number, where it is not the one of the saved processor."""


def show_code(
    facts: RunFacts, repo: str | None = None, merged: str | None = None, folder: str = "."
) -> str:
    """Return Python code that loads a result and asks it about an image.

    Args:
        facts: what the run says.
        repo: Hub id of the result; None: it is in a folder.
        merged: format of the weights of a merged model, such as `bfloat16`; None: the result as it is.
        folder: of the result; by default the one where the code runs.
    """
    is_adapter = merged is None and facts.kind == ResultKind.adapter
    blocks = [
        list(_import(facts, is_adapter)),
        [
            *_name(facts, repo, folder, is_adapter),
            'device = "cuda" if torch.cuda.is_available() else "cpu"',
        ],
        list(_load_adapter(facts, repo)) if is_adapter else list(_load_model(facts, merged)),
        ["", *_define_ask(facts)],
        ["", f"answer = ask({_name_images(facts)}, {_quote(facts.prompts[0].example)})", "print(answer)"],
    ]
    return "\n\n".join("\n".join(lines) for lines in blocks) + "\n"


def _call(head: str, arguments: list[str], tail: str = "") -> Iterator[str]:
    """Yield a call, on several lines where one would be too long."""
    line = f"{head}({', '.join(arguments)}){tail}"
    if len(line) <= _WIDEST:
        yield line
        return
    yield f"{head}("
    yield from (f"    {argument}," for argument in arguments)
    yield f"){tail}"


def _import(facts: RunFacts, is_adapter: bool) -> Iterator[str]:
    if _finds_tiny(facts, None) and is_adapter:
        yield "from importlib.util import find_spec"
        yield "from pathlib import Path"
        yield ""
    yield "import torch"
    if is_adapter:
        yield f"from peft import {'PeftConfig, ' if _copies_in_float32(facts) else ''}PeftModel"
    yield "from PIL import Image, ImageOps"
    names = [_MODEL, "PaliGemmaProcessor"]
    if is_adapter and facts.backbone == "gemma2":
        names.append("PaliGemmaConfig")
    if is_adapter and _bits(facts) != 16:
        names.append("BitsAndBytesConfig")
    yield f"from transformers import {', '.join(sorted(names))}"


def _finds_tiny(facts: RunFacts, repo: str | None) -> bool:
    return facts.base.is_tiny and repo is None


def _bits(facts: RunFacts) -> int:
    return int(facts.setting("peft.bits") or 16)


def _name_images(facts: RunFacts) -> str:
    if facts.images == 1:
        return '"image.jpg"'
    return json.dumps([f"image{number}.jpg" for number in range(1, facts.images + 1)])


def _quote(text: str) -> str:
    """Return a text as Python writes it, in double quotes where that needs no escapes."""
    quoted = f'"{text}"' if text.isprintable() and not {*'"\\'} & {*text} else repr(text)
    return quoted.replace("```", r"\x60\x60\x60")  # a simple reader would end the block of code there


def _name(facts: RunFacts, repo: str | None, folder: str, is_adapter: bool) -> Iterator[str]:
    """Yield where the result and its base are."""
    name = "adapter" if is_adapter else "model_path"
    comment = "" if repo or folder != "." else "  # the folder of this file"
    yield f"{name} = {_quote(repo or folder)}{comment}"
    if not is_adapter:
        return
    base = facts.base
    if _finds_tiny(facts, repo):
        yield 'base = Path(find_spec("finetune").origin).parent / "assets/tiny"  # comes with finetune'
    elif base.is_tiny:
        yield "base = adapter  # its folder `base`"
    elif base.hub_id is not None:
        yield f"base = {_quote(base.hub_id)}"
    else:
        yield f"base = {_quote(base.name)}  # the folder of the model that was tuned"


def _load_adapter(facts: RunFacts, repo: str | None) -> Iterator[str]:
    base, bits = facts.base, _bits(facts)
    where = ['subfolder="base"'] if base.is_tiny and repo else []
    if base.hub_id is not None and base.revision is not None:
        where.append(f"revision={_quote(base.revision)}")
    options = [*where, f"dtype=torch.{facts.setting('model.dtype') or 'bfloat16'}"]
    if facts.backbone == "gemma2":
        yield from _call("config = PaliGemmaConfig.from_pretrained", ["base", *where])
        if not facts.setting("model.final_logit_softcap"):
            yield "config.text_config.final_logit_softcapping = None  # as PaliGemma 2 was trained"
        yield f"config.text_config.sliding_window = {_WINDOW}  # every layer sees the whole image"
        options.append("config=config")
    if facts.setting("model.attention") == "eager" and facts.backbone != "gemma2":
        options.append('attn_implementation={"text_config": "eager"}')
    if bits != 16:
        yield from _quantize(facts, bits)
        options += ["quantization_config=quantization", "device_map=device"]
    yield from _call(f"model = {_MODEL}.from_pretrained", ["base", *options])
    if _copies_in_float32(facts):
        # PEFT's `low_cpu_mem_usage=True` keeps the copies as they were stored, but rounds LoRA's matrices.
        yield "for name in PeftConfig.from_pretrained(adapter).modules_to_save:"
        yield "    model.get_submodule(name).float()  # PEFT copies it as it is; its values are float32"
    options = ["autocast_adapter_dtype=False"] if _learned_dtype(facts) == "bfloat16" else []
    move = ".to(device)" if bits == 16 else ""
    yield from _call("model = PeftModel.from_pretrained", ["model", "adapter", *options], f"{move}.eval()")
    if bits == 4 and facts.environment.get("gpus") == []:
        yield "for module in model.modules():  # on a CPU: the kernel of the run"
        yield "    module.support_avx512bf16_for_cpu = False"
    yield 'processor = PaliGemmaProcessor.from_pretrained(adapter, backend="pil")'


def _learned_dtype(facts: RunFacts) -> str:
    return str(facts.setting("model.learning_dtype") or "float32")


def _copies_in_float32(facts: RunFacts) -> bool:
    """Return whether the adapter has copies of whole modules in float32 (`peft.modules_to_save`)."""
    return bool(facts.setting("peft.modules_to_save")) and _learned_dtype(facts) == "float32"


def _quantize(facts: RunFacts, bits: int) -> Iterator[str]:
    towers = facts.setting("peft.quantize") or ["language_model"]
    every = ("vision_tower", "multi_modal_projector", "language_model")
    skipped = [*(f".*{tower}" for tower in every if tower not in towers), ".*lm_head"]
    yield "quantization = BitsAndBytesConfig("
    if bits == 4:
        yield "    load_in_4bit=True,"
        yield '    bnb_4bit_quant_type="nf4",'
        yield f"    bnb_4bit_use_double_quant={bool(facts.setting('peft.double_quant'))},"
        yield f"    bnb_4bit_compute_dtype=torch.{_autocast(facts) or 'bfloat16'},"
    else:
        yield "    load_in_8bit=True,"
    yield f"    llm_int8_skip_modules={json.dumps(skipped)},"
    yield ")"


def _load_model(facts: RunFacts, merged: str | None) -> Iterator[str]:
    frozen, learned = facts.setting("model.dtype") or "bfloat16", _learned_dtype(facts)
    tests = list(_list_frozen(facts)) if merged is None and frozen != learned else []
    dtype = "float32" if tests else merged or learned
    yield f"model = {_MODEL}.from_pretrained(model_path, dtype=torch.{dtype})"
    if tests:
        last_n = facts.setting("freeze.last_n")
        if last_n is not None:
            yield "count = len(model.model.language_model.layers)"
            yield "last = tuple("
            yield f'    f"model.language_model.layers.{{n}}." for n in range(count - {last_n}, count)'
            yield ")"
        is_frozen, half = " or ".join(tests), frozen
        what = "what was frozen"
        if frozen == "float32":
            is_frozen, half, what = f"not ({is_frozen})", learned, "what learned"
        yield f"for name, parameter in model.named_parameters():  # {what}, in its own format"
        yield f"    if {is_frozen}:"
        yield f"        parameter.data = parameter.data.to(torch.{half})"
    yield "model = model.to(device).eval()"
    yield 'processor = PaliGemmaProcessor.from_pretrained(model_path, backend="pil")'


def _list_frozen(facts: RunFacts) -> Iterator[str]:
    """Yield Python conditions on the names of parameters that did not learn; `last` has the last layers."""
    for tower in ("vision_tower", "multi_modal_projector", "language_model"):
        learning = facts.setting(f"freeze.{tower}")
        learned = ['".self_attn." in name'] if learning == "attention" else []
        if tower == "language_model" and facts.setting("freeze.last_n") is not None:
            learned.append("name.startswith(last)")
        if learning == "none" or learned:
            but = f" and not ({' and '.join(learned)})" if learned else ""
            yield f'name.startswith("model.{tower}."){but}'


def _autocast(facts: RunFacts) -> str | None:
    """Return the format in which the run computes products; None for that of the weights."""
    if facts.setting("trainer.fp16"):
        return "float16"
    return "bfloat16" if facts.setting("trainer.bf16") else None


def _define_ask(facts: RunFacts) -> Iterator[str]:
    several = facts.images > 1
    half = _autocast(facts)
    autocast = f", torch.autocast(device, torch.{half})" if half else ""
    beams = int(facts.setting("evaluation.num_beams") or 1)
    settings = f"max_new_tokens={facts.setting('evaluation.max_new_tokens') or 128}, do_sample=False"
    settings += f", num_beams={beams}, length_penalty=0.0" if beams > 1 else ""
    kernel = _KERNELS.get(str(facts.setting("image.resize")))
    options = f", resample={kernel}" if kernel is not None else ""
    read = 'ImageOps.exif_transpose(Image.open({})).convert("RGB")'
    if several:
        yield "def ask(files, prompt):"
        yield f"    images = [[{read.format('file')} for file in files]]"
        text = f'"{"<image>" * facts.images}" + prompt'
    else:
        yield "def ask(file, prompt):"
        yield f"    images = {read.format('file')}"
        text = '"<image>" + prompt'
    yield f'    inputs = processor(text={text}, images=images{options}, return_tensors="pt").to(device)'
    yield '    inputs.pop("labels", None)'
    yield f"    with torch.inference_mode(){autocast}:"
    yield f"        answer = model.generate(**inputs, {settings})"
    yield '    return processor.decode(answer[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)'


def show_decoding(divisor: int) -> str:
    """Return Python code that reads the boxes of an answer, after that of `show_code`.

    Args:
        divisor: what a location is divided by.
    """
    return "\n".join(
        [
            "import re",
            "",
            'width, height = ImageOps.exif_transpose(Image.open("image.jpg")).size',
            'loc = r"<loc(\\d{4})>"',
            'for y0, x0, y1, x1, label in re.findall(4 * loc + r"(?:<seg\\d{3}>)*([^;<]*)", answer):',
            f"    x_min, x_max = (int(x) / {divisor} * width for x in (x0, x1))",
            f"    y_min, y_max = (int(y) / {divisor} * height for y in (y0, y1))",
            "    print(label.strip(), x_min, y_min, x_max, y_max)",
            "",
        ]
    )
