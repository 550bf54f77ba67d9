"""Fine-tuning for PaliGemma 1 and 2: `python -m finetune --help`."""
