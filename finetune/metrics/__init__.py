"""Scores, in numpy and strings only."""
