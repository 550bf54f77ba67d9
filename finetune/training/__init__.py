"""The loop: loss, optimiser, order of the examples, callbacks."""
