"""Options proposed from the dataset, and `finetune plan`; torch-free."""
