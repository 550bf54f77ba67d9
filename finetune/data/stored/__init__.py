"""What was computed from images, kept on disk for later epochs and runs: resized pixels, or features."""
