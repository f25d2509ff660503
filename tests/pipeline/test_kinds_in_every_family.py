"""Edits of every kind on a photograph, by a tiny model of every family: the region, its method, and what stays."""

from __future__ import annotations

import numpy as np
import pytest
from edits_of_each_kind import KINDS, PROMPTS
from PIL import Image
from skimage import data as photographs
from tiny_families import WRITERS

from diffedit_cli import DiffEdit
from diffedit_cli.engine.networks.model_formats import FAMILIES
from diffedit_cli.models import registry

SIZE = (96, 64)


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    return Image.fromarray(photographs.chelsea()).resize(SIZE)


@pytest.fixture(scope="module", params=WRITERS)
def editor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DiffEdit:
    folder = tmp_path_factory.mktemp("family") / request.param
    WRITERS[request.param](folder)
    assert registry.find(str(folder)).family == request.param
    return DiffEdit(str(folder), cache=None)


def test_no_family_is_left_out() -> None:
    assert WRITERS.keys() == FAMILIES.keys()


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_the_region_is_painted_and_all_else_stays(editor: DiffEdit, photograph: Image.Image, kind: str) -> None:
    source, target = PROMPTS[kind]
    settings = {
        "threshold": 0.75,
        "clamp": 1.5,
        "edges": 0.0,
        "reach_down": 0.0,
        "grow": 0.0,
    }  # an untrained map is flat
    done = editor.edit(photograph, from_=source, to=target, steps=4, maps=2, zoom=1.0, room=0.0, **settings)
    assert done.stats.region == kind
    M, before, after = done.mask.pixels, np.asarray(photograph), np.asarray(done.image)
    assert M.any()
    assert M.all() == (kind == "everything")
    assert (after[~M] == before[~M]).all()
    assert (after[M] != before[M]).any()
