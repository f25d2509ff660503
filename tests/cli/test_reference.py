"""docs/parameters.md and the man page say what the declarations say, and come with the package."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from checkout import PROJECT
from command import declared

from diffedit_cli.cli import reference


@pytest.mark.parametrize(
    ("page", "made"), [("parameters.md", reference.parameters_page), ("diffedit.1", reference.man_page)]
)
def test_the_pages_are_as_they_would_be_made_now(page: str, made: object) -> None:
    """Else: python -m diffedit_cli.cli.reference parameters > docs/parameters.md, and man > docs/diffedit.1"""
    assert (PROJECT / "docs" / page).read_text() == made()  # type: ignore[operator]


def test_the_man_page_names_every_option_of_every_command() -> None:
    page = reference.man_page().replace("\\-", "-")
    for words, name, *_ in declared():
        assert words in page
        assert name.rstrip("_").replace("_", "-") in page or name.upper() in page


def test_the_man_page_is_roff() -> None:
    if shutil.which("groff") is None:
        pytest.skip("groff reads man pages; install it to check this one")
    words = ["groff", "-man", "-Tascii", "-ww", "-z"]
    ran = subprocess.run(words, input=reference.man_page(), capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_the_wheel_installs_it() -> None:
    assert '"docs/diffedit.1" = "share/man/man1/diffedit.1"' in (PROJECT / "pyproject.toml").read_text()
