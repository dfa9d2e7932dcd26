"""The steps of a run: one module each, in the order of `finetune.train`."""
