"""What prefix and suffix mean for a kind of task."""
