"""From rows to examples."""
