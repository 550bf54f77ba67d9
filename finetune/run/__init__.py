"""A run's folder: its lock, its complete files, its checked checkpoints and its results."""
