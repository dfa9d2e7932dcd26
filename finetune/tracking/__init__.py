"""Experiment trackers: W&B, TensorBoard, MLflow and trackio."""
