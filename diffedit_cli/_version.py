"""The version, read by the build, by records and by --version."""

__version__ = "0.1.0"
