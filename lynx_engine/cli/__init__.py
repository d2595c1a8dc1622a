"""The command line: one file a command, and one module that prints."""
