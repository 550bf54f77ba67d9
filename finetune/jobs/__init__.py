"""One file for each command, which reads from top to bottom."""
