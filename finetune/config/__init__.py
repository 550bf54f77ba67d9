"""What can be chosen: the schema, where its YAML lives, and what may not be combined."""
