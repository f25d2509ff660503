"""Paths in the project under test."""

from pathlib import Path

PROJECT = Path(__file__).parent.parent.parent
SAMPLES = PROJECT / "sample_images"
EXAMPLES = PROJECT / "examples"
TESTS = PROJECT / "tests"
