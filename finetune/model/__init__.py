"""The checkpoint, which of its towers learn, and how."""
