"""Every option: its section, its bounds, and the rules between options; torch-free."""
