"""What makes a result usable elsewhere: what a run says of itself, its model card, and its repetition."""
