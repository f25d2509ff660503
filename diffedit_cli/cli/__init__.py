"""What a user types and sees: commands, options, help, progress, the resident server."""
