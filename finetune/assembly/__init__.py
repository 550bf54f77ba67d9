"""From options to the parts of a run: data, model, trainer, evaluator."""
