"""`finetune` for shells that do not find the command: `python -m finetune`."""

from finetune.cli import main

if __name__ == "__main__":
    main()
