"""What works on this machine: versions, devices, kernels, the attention mask, storage."""
