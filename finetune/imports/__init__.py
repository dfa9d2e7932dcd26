"""Configs of other trainers as ours; torch-free."""
