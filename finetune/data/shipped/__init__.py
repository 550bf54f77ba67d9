"""Data that comes with the dependencies of the package, or is drawn."""
