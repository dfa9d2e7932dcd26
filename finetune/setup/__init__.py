"""What `finetune.train` opens, loads, prepares and attaches before the first step."""
