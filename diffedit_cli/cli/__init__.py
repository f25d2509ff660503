"""The command-line interface: commands, options, help, progress display and the resident server."""
