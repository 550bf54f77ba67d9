"""What a frozen vision tower makes of images, kept on disk for later epochs and runs."""
