"""Answers generated over a whole split, and their score."""
