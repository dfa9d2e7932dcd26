"""Trained weights in the layouts of other tools, reloaded and compared.

`lora` writes adapters (diffusers layout and the single-file layout of kohya's sd-scripts), `pipeline` whole models,
`metadata` the description and origin inside the file, and `verify` reloads what was written.
"""
