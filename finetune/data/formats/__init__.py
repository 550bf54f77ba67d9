"""People's own data, one file a format: a file of theirs to rows."""
