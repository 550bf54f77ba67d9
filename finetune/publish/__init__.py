"""What makes a result usable elsewhere: what it says of itself, its card, and its repetition."""
