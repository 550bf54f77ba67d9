"""The training loop: loss, optimizer, order of the examples, callbacks."""
