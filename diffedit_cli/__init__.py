"""Change a picture by words: DiffEdit as a command-line program."""

__version__ = "0.1.0"
