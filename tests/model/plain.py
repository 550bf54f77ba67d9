"""Run by a test in a process without finetune: what plain peft and transformers make of an adapter.

    python plain.py JOBS ANSWERS

JOBS is a JSON list of objects: `adapter` (folder or Hub id), `bits`, `dtype`, `images` and `prompt`.
ANSWERS gets the answers to each, by the class that loaded the adapter.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from peft import AutoPeftModel, PeftConfig, PeftModel
from PIL import Image
from transformers import (
    BitsAndBytesConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
)


def load(job: dict[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {"dtype": getattr(torch, job["dtype"])}
    if job["bits"] == 4:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=[".*vision_tower", ".*multi_modal_projector", ".*lm_head"],
        )
    config = PeftConfig.from_pretrained(job["adapter"])
    base = PaliGemmaForConditionalGeneration.from_pretrained(
        config.base_model_name_or_path, revision=config.revision, **options
    )
    return {
        "AutoPeftModel": AutoPeftModel.from_pretrained(job["adapter"], **options),
        "PeftModel": PeftModel.from_pretrained(base, job["adapter"]),
    }


def answer(job: dict[str, Any]) -> dict[str, list[str]]:
    processor = PaliGemmaProcessor.from_pretrained(job["adapter"], backend="pil")
    answers: dict[str, list[str]] = {}
    for how, model in load(job).items():
        answers[how] = []
        for file in job["images"]:
            image = Image.open(file).convert("RGB")
            inputs = processor(text=f"<image>{job['prompt']}", images=image, return_tensors="pt")
            with torch.inference_mode():
                tokens = model.eval().generate(**inputs.to(model.dtype), max_new_tokens=8, do_sample=False)
            new = tokens[0, inputs["input_ids"].shape[1] :]
            answers[how].append(processor.decode(new, skip_special_tokens=True))
    return answers


if __name__ == "__main__":
    jobs = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(json.dumps([answer(job) for job in jobs]))
    assert "finetune" not in sys.modules
