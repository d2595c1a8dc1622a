"""The sampler, from noise to latents. Tensors and numbers only: no model, file or manifest."""
