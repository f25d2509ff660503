"""Pictures come back as they went in: unmasked pixels, format, size, orientation, profile, alpha and EXIF."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from command import FAST, WORDS, diffedit
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageDraw, ImageOps, PngImagePlugin

from diffedit_cli.images import codecs, masks, pictures, provenance
from diffedit_cli.jobs import execute
from diffedit_cli.jobs.job import Job
from diffedit_cli.models import registry
from diffedit_cli.pipeline.edit_pipeline import EditPipeline
from diffedit_cli.pipeline.params import Params

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ORIENTATION = ExifTags.Base.Orientation


@pytest.fixture(scope="module")
def pipeline(tiny_epsilon: Path) -> EditPipeline:
    """A tiny model, loaded once."""
    return EditPipeline(registry.find(str(tiny_epsilon)), None, device="cpu")


def scene(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    """A picture with shapes, noise and, where the mode has it, uneven alpha."""
    width, height = size
    rng = np.random.default_rng(width * height)
    image = Image.fromarray(rng.integers(60, 190, (height, width, 3), dtype=np.uint8))
    ImageDraw.Draw(image).ellipse((width * 0.2, height * 0.2, width * 0.7, height * 0.8), fill=(230, 40, 90))
    if mode in ("LA", "RGBA"):
        image = image.convert(mode)
        image.putalpha(Image.linear_gradient("L").resize(size))
    return image.convert(mode)


def edited(pipeline: EditPipeline, path: Path, output: Path | None = None, threshold: float = 0.3) -> Job:
    """The job that edited the picture and wrote its mask, too."""
    params = Params(from_="cat", to="dog", steps=5, maps=2, threshold=threshold)
    output = output or path.with_name(f"{path.stem}.edited{path.suffix}")
    job = Job(input=path, output=output, params=params, mask_output=path.with_name("mask.png"))
    execute.edit(job, lambda: pipeline)
    return job


def pixels(path: Path, mode: str) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert(mode))


def changed(job: Job, mode: str) -> NDArray[np.bool_]:
    """Which pixels (H, W) differ between input and output in any channel."""
    assert job.output is not None
    different = pixels(job.input, mode) != pixels(job.output, mode)
    return different.any(axis=-1) if different.ndim == 3 else different


def mask_of(job: Job) -> NDArray[np.bool_]:
    assert job.mask_output is not None
    return pixels(job.mask_output, "L") > 0


@pytest.mark.parametrize(("mode", "result"), codecs.MODES.items())
def test_only_masked_pixels_change_in_every_mode(
    pipeline: EditPipeline, tmp_path: Path, mode: str, result: str
) -> None:
    suffix = ".tif" if mode in ("PA", "CMYK") else ".png"
    scene((61, 37), mode).save(tmp_path / f"scene{suffix}")
    job = edited(pipeline, tmp_path / f"scene{suffix}")
    assert changed(job, result).any()
    assert not (changed(job, result) & ~mask_of(job)).any()
    with Image.open(job.output) as image:
        assert image.mode == result


@pytest.mark.parametrize("size", [(37, 61), (300, 200), (16, 500), (500, 16), (2, 3)])
def test_only_masked_pixels_change_at_every_size(pipeline: EditPipeline, tmp_path: Path, size: tuple[int, int]) -> None:
    scene(size).save(tmp_path / "scene.png")
    job = edited(pipeline, tmp_path / "scene.png", threshold=0.2)
    assert changed(job, "RGB").any()
    assert not (changed(job, "RGB") & ~mask_of(job)).any()
    assert mask_of(job).shape == size[::-1]


def test_a_single_pixel_can_be_edited(pipeline: EditPipeline, tmp_path: Path) -> None:
    scene((1, 1)).save(tmp_path / "scene.png")
    job = edited(pipeline, tmp_path / "scene.png", threshold=0)
    assert mask_of(job).tolist() == [[True]]
    assert pixels(job.output, "RGB").shape == (1, 1, 3)


def test_most_of_the_mask_is_repainted(pipeline: EditPipeline, tmp_path: Path) -> None:
    """The feather takes an edge of the mask, not the mask."""
    scene((300, 200)).save(tmp_path / "scene.png")
    job = edited(pipeline, tmp_path / "scene.png")
    assert changed(job, "RGB").sum() > 0.8 * mask_of(job).sum()


def test_the_feather_lies_inside_the_mask() -> None:
    picture = codecs.from_image(Image.new("RGB", (60, 40), "white"))
    mask = np.zeros((40, 60), bool)
    mask[10:30, 10:50] = True
    black = np.zeros((8, 8, 3), np.uint8)
    composed = pictures.compose(picture, black, mask, feather=6).pixels[..., 0]
    assert (composed[~mask] == 255).all()
    assert composed[20, 30] == 0
    assert 0 < composed[20, 11] < 255


def test_thin_strokes_are_painted_in_full() -> None:
    mask = np.zeros((40, 60), bool)
    mask[20, 5:50] = True
    mask[3, 3] = True
    assert (pictures.fade(mask, feather=30)[mask] == 1).all()
    assert (pictures.fade(~mask, feather=3)[mask] == 0).all()
    assert (pictures.fade(np.ones((4, 4), bool), feather=3) == 1).all()


def test_alpha_is_kept(pipeline: EditPipeline, tmp_path: Path) -> None:
    for mode in ("RGBA", "LA"):
        scene((61, 37), mode).save(tmp_path / "scene.png")
        job = edited(pipeline, tmp_path / "scene.png")
        assert (pixels(job.input, "RGBA")[..., 3] == pixels(job.output, "RGBA")[..., 3]).all()


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "1"])
def test_a_transparent_colour_stays_transparent(pipeline: EditPipeline, tmp_path: Path, mode: str) -> None:
    image = scene((61, 37), mode)
    key = image.getpixel((0, 0))
    image.save(tmp_path / "scene.png", transparency=key)
    job = edited(pipeline, tmp_path / "scene.png")
    alpha = pixels(job.input, "RGBA")[..., 3]
    assert alpha.min() == 0
    assert (pixels(job.output, "RGBA")[..., 3] == alpha).all()


def exif() -> Image.Exif:
    """As a camera writes it: a maker, an exposure, a place, and the camera held sideways."""
    found = Image.Exif()
    found[ExifTags.Base.Make] = "Maker"
    found[ORIENTATION] = 6
    found.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExposureTime] = 0.25
    found.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    whole = Image.Exif()
    whole.load(found.tobytes())  # Pillow writes inner tables into a TIFF only when they were read
    return whole


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_a_picture_is_turned_upright_and_keeps_its_exif_and_profile(
    pipeline: EditPipeline, tmp_path: Path, suffix: str
) -> None:
    options = {"lossless": True} if suffix == ".webp" else {}
    scene((61, 37)).save(tmp_path / f"scene{suffix}", exif=exif(), icc_profile=PROFILE, **options)
    job = edited(pipeline, tmp_path / f"scene{suffix}")
    assert mask_of(job).shape == (61, 37)
    with Image.open(job.input) as before, Image.open(job.output) as after:
        assert after.size == (37, 61)
        assert after.format == before.format
        assert after.info["icc_profile"] == PROFILE
        assert ORIENTATION not in after.getexif()
        assert after.getexif()[ExifTags.Base.Make] == "Maker"
        assert after.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExposureTime] == 0.25
        assert after.getexif().get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == "N"
        if suffix != ".jpg":
            before.load()  # which already turns a TIFF
            upright = np.asarray(ImageOps.exif_transpose(before).convert("RGB"))
            different = (np.asarray(after.convert("RGB")) != upright).any(axis=-1)
            assert not (different & ~mask_of(job)).any()


def test_a_jpeg_keeps_its_quantisation(pipeline: EditPipeline, tmp_path: Path) -> None:
    scene((61, 37)).save(tmp_path / "scene.jpg", quality=31, subsampling="4:2:2")
    job = edited(pipeline, tmp_path / "scene.jpg")
    with Image.open(job.input) as before, Image.open(job.output) as after:
        assert after.format == "JPEG"
        assert after.quantization == before.quantization
        assert after.layer == before.layer


def test_a_jpeg_with_a_second_picture_behind_stays_a_jpeg(pipeline: EditPipeline, tmp_path: Path) -> None:
    """As phones write them: Pillow calls the format MPO."""
    scene((61, 37)).save(tmp_path / "scene.jpg", "MPO", save_all=True, append_images=[scene((30, 20))])
    result = execute.edit(
        Job(input=tmp_path / "scene.jpg", params=Params(from_="cat", to="dog", steps=5, threshold=0.2)),
        lambda: pipeline,
    )
    assert result.output == str(tmp_path / "scene.edited.jpg")
    assert "several frames" in result.warnings[0]
    with Image.open(result.output) as after:
        assert after.format == "JPEG"


@pytest.mark.parametrize("suffix", [".tif", ".jpg", ".png", ".webp", ".bmp"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "jpeg"])
def test_a_tiff_becomes_any_format(
    pipeline: EditPipeline, tmp_path: Path, compression: str | None, suffix: str
) -> None:
    scene((61, 37)).save(tmp_path / "scene.tif", compression=compression)
    job = edited(pipeline, tmp_path / "scene.tif", output=tmp_path / f"out{suffix}")
    if suffix != ".jpg":
        assert not (changed(job, "RGB") & ~mask_of(job)).any()


@pytest.mark.parametrize("suffix", [".png", ".tif", ".avif", ".heic"])
def test_deep_and_modern_files_are_edited_and_known_as_ours(
    pipeline: EditPipeline, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"scene{suffix}"
    if suffix in (".png", ".tif"):
        Image.fromarray(np.asarray(scene((61, 37), "L")).astype(np.uint16) * 250).save(path)
    else:
        pillow_heif.register_heif_opener()
        scene((61, 37)).save(path)
    job = edited(pipeline, path)
    assert job.output is not None
    before, after = codecs.load(path), codecs.load(job.output)
    assert (after.mode, after.is_deep, after.format) == (before.mode, suffix in (".png", ".tif"), before.format)
    assert provenance.has_record(job.output)
    if after.is_deep:
        different = (before.pixels != after.pixels).any(axis=-1)
        assert different.any()
        assert not (different & ~mask_of(job)).any()


def test_a_gif_becomes_a_png(pipeline: EditPipeline, tmp_path: Path) -> None:
    scene((61, 37), "P").save(tmp_path / "scene.gif")
    result = execute.edit(
        Job(input=tmp_path / "scene.gif", params=Params(from_="cat", to="dog", steps=5, threshold=0.2)),
        lambda: pipeline,
    )
    assert result.output == str(tmp_path / "scene.edited.png")


def test_a_mask_is_grey_and_of_the_pictures_size(pipeline: EditPipeline, tmp_path: Path) -> None:
    scene((61, 37)).save(tmp_path / "scene.png")
    job = edited(pipeline, tmp_path / "scene.png")
    with Image.open(job.mask_output) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "L", (61, 37))
        assert set(np.unique(np.asarray(image))) == {0, 255}


def test_a_mask_painted_over_is_no_longer_the_one_that_was_found(pipeline: EditPipeline, tmp_path: Path) -> None:
    """Even where the other program kept what the file says of itself."""
    scene((61, 37)).save(tmp_path / "scene.png")
    path = edited(pipeline, tmp_path / "scene.png").mask_output
    for painted in (False, True):
        with Image.open(path) as image:
            info = PngImagePlugin.PngInfo()
            info.add_text("diffedit", image.info["diffedit"])
            if painted:
                image.putpixel((0, 0), 255 - image.getpixel((0, 0)))
            image.save(tmp_path / "kept.png", pnginfo=info)
        assert (masks.load_mask(tmp_path / "kept.png").made is None) == painted


def test_a_mask_from_another_program_is_taken(pipeline: EditPipeline, tmp_path: Path) -> None:
    """Drawn in colour, with grey edges and a transparent ground: half bright and half there is white enough."""
    scene((61, 37)).save(tmp_path / "scene.png")
    drawn = Image.new("RGBA", (61, 37), (255, 255, 255, 0))
    drawn.paste((255, 255, 255, 255), (10, 10, 40, 30))
    drawn.paste((90, 90, 90, 255), (40, 10, 50, 30))
    drawn.save(tmp_path / "drawn.png")
    job = Job(input=tmp_path / "scene.png", params=Params(to="dog", steps=5), mask=tmp_path / "drawn.png")
    result = execute.edit(job, lambda: pipeline)
    white = np.zeros((37, 61), bool)
    white[10:30, 10:40] = True
    assert result.mask_area == white.mean()
    different = (pixels(job.input, "RGB") != pixels(Path(result.output), "RGB")).any(axis=-1)
    assert not (different & ~white).any()


@pytest.mark.parametrize(
    ("size", "native", "multiple"), [((61, 37), 64, 8), ((37, 61), 64, 8), ((1, 1), 64, 8), ((5000, 10), 512, 64)]
)
def test_the_fitted_size_suits_the_model(size: tuple[int, int], native: int, multiple: int) -> None:
    width, height = pictures.fitted_size(size, native, multiple)
    assert width % multiple == height % multiple == 0
    assert native**2 / 2 <= width * height <= native**2 * 2
    assert (width > height) == (size[0] > size[1])


def record_of(path: Path) -> dict[str, object] | None:
    return provenance.read_record(path)


@pytest.mark.thorough
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_no_metadata_leaves_no_words(tmp_path: Path, tiny_epsilon: Path, suffix: str) -> None:
    """Neither its own nor those of the earlier edit that it began from."""
    scene((61, 37)).save(tmp_path / f"scene{suffix}")
    words = ("--from", "a cat on grass", "--to", "dog", "--model", tiny_epsilon, *FAST)
    assert diffedit("edit", tmp_path / f"scene{suffix}", *words).code == 0
    first = tmp_path / f"scene.edited{suffix}"
    assert record_of(first)["mask"]["from"] == "a cat on grass"  # type: ignore[index, call-overload]
    assert diffedit("edit", first, *words, "--no-metadata").code == 0
    second = tmp_path / f"scene.edited.edited{suffix}"
    assert b"on grass" in first.read_bytes()
    assert b"on grass" not in second.read_bytes()
    assert record_of(second) is None
    assert diffedit("info", second).code == 3


def test_foreign_metadata_of_our_name_is_no_record(tmp_path: Path) -> None:
    for text in ("not json", "[]", json.dumps({"tool": "another"}), json.dumps({"tool": "diffedit"})):
        info = PngImagePlugin.PngInfo()
        info.add_text("diffedit", text)
        scene((9, 9)).save(tmp_path / "foreign.png", pnginfo=info)
        ran = diffedit("info", tmp_path / "foreign.png")
        assert (ran.code, ran.out) == (3, b"")


def test_a_record_is_only_in_what_we_made(tmp_path: Path, tiny_epsilon: Path) -> None:
    scene((61, 37)).save(tmp_path / "scene.jpg")
    diffedit("edit", tmp_path / "scene.jpg", *WORDS, *FAST, "--model", tiny_epsilon)
    assert record_of(tmp_path / "scene.jpg") is None
    assert record_of(tmp_path / "scene.edited.jpg") is not None
