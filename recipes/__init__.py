"""Recipes: how a model is tuned. Each module runs alone (`python -m`) and under `accelerate launch -m`."""
