"""Fine-tuning of diffusion image models: one training loop, many families and methods."""

__version__ = "0.1.0"
