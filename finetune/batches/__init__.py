"""From a manifest to batches of latents and prompts, through the caches."""
