"""Rows from each source, and the way from a row to a batch."""
