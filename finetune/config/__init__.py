"""Every option: its section, its bounds, and rules between options; torch-free."""
