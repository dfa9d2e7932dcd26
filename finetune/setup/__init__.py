"""The steps of `finetune.train` before the first one of training."""
