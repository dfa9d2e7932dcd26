"""The parts of torchvision that diffusers' training script uses."""
