"""From bytes to records, each with its place."""
