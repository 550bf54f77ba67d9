"""Trackers: curves, scores and predictions of a training in TensorBoard, Weights & Biases and trackio."""
