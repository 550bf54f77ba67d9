"""What a run leaves: its folder, who may write in it, whole files, and checkpoints that are checked."""
