"""Custom data, one module per format: from its files to rows."""
