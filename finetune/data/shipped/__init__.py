"""Data that comes with the package's dependencies, or is drawn."""
