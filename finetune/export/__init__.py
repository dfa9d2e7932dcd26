"""Trained weights in the layouts that other tools read, reloaded and compared before a run ends.

`lora` writes adapters (diffusers layout and the single-file layout of kohya's sd-scripts), `pipeline` whole models,
`metadata` says inside the file what it is and where it comes from, and `verify` reloads what was written.
"""
