"""Where things are in the project that is tested."""

from pathlib import Path

PROJECT = Path(__file__).parent.parent.parent
SAMPLES = PROJECT / "sample_images"
EXAMPLES = PROJECT / "examples"
TESTS = PROJECT / "tests"
