"""Structure to text and back, as PaliGemma was pre-trained: boxes, masks, and the masks' VQ-VAE."""
