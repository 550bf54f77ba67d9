"""Composes and checks the options of a command with Hydra."""
