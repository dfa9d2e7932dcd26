"""Prompts, their files and options, and the options of `finetune generate`; torch-free."""
