"""Every format, mode, depth, orientation and profile: what is loaded, edited and written comes back as it went in."""

from __future__ import annotations

import io
import itertools
import sys
from pathlib import Path
from typing import Any

import icc
import numpy as np
import pillow_heif
import pytest
import tifffile
from numpy.typing import NDArray
from picture_files import DPI, UPRIGHT, XMP, read_metadata, read_pixels, stored, written
from PIL import Image
from skimage import data as photographs

from diffedit_cli.errors import DiffEditError, InputError, UsageError
from diffedit_cli.images import codecs, pictures, xmp_packets

pillow_heif.register_heif_opener()

SUFFIX = {
    "PNG": ".png",
    "TIFF": ".tif",
    "JPEG": ".jpg",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "AVIF": ".avif",
    "HEIF": ".heic",
}
LOSSLESS = ("PNG", "TIFF", "WEBP", "BMP")
HELD = {  # format -> (mode, bits)
    "PNG": [(mode, bits) for mode in ("L", "LA", "RGB", "RGBA") for bits in (8, 16)],
    "TIFF": [("L", 8), ("RGB", 8), ("RGBA", 8), ("CMYK", 8), ("L", 16), ("RGB", 16), ("RGBA", 16)],
    "JPEG": [("L", 8), ("RGB", 8), ("CMYK", 8)],
    "WEBP": [("RGB", 8), ("RGBA", 8)],
    "AVIF": [("RGB", 8), ("RGBA", 8)],
}
FITTING = {"L": icc.GREY, "RGB": icc.WIDE, "CMYK": icc.CMYK}  # by mode without alpha
MATRIX = [
    (kind, mode, bits, orientation, profile)
    for kind, held in HELD.items()
    for (mode, bits), orientation, profile in itertools.product(held, UPRIGHT, ("none", "srgb", "own"))
    if profile != "srgb" or mode.startswith("RGB")
]
WITHOUT_ORIENTATION = XMP.replace('tiff:Orientation="{}"', "")
PAINTED = np.full((5, 7, 3), (200, 40, 90), np.uint8)


def loaded(folder: Path, data: bytes, kind: str = "PNG") -> pictures.Picture:
    (folder / f"picture{SUFFIX[kind]}").write_bytes(data)
    return codecs.load(folder / f"picture{SUFFIX[kind]}")


def masked(picture: pictures.Picture) -> NDArray[np.bool_]:
    mask = np.zeros(picture.size[::-1], bool)
    mask[4:15, 5:14] = True
    return mask


@pytest.mark.parametrize(("kind", "mode", "bits", "orientation", "profile"), MATRIX)
def test_all_but_the_edit_comes_back(
    tmp_path: Path, kind: str, mode: str, bits: int, orientation: int, profile: str
) -> None:
    pixels, plain = stored(mode, bits), mode.removesuffix("A")
    held = {"none": None, "srgb": icc.SRGB, "own": FITTING[plain]}[profile]
    given = written(pixels, kind, mode, orientation, held)
    expected = UPRIGHT[orientation](pixels)

    picture = loaded(tmp_path, given, kind)
    assert (picture.mode, picture.pixels.dtype, picture.format) == (mode, pixels.dtype, kind)
    assert picture.warnings == ()
    assert (picture.colours.digest != "") == (profile == "own")
    if kind in LOSSLESS:
        assert (picture.pixels == expected).all()

    mask = masked(picture)
    result = pictures.compose(picture, PAINTED, mask, feather=2)
    assert (result.pixels[~mask] == picture.pixels[~mask]).all()
    data = codecs.encode(result, kind, None)
    after = read_pixels(data, kind)
    assert (after.shape, after.dtype) == (expected.shape, pixels.dtype)
    if kind in LOSSLESS:
        assert (after == result.pixels).all()
        assert (after[9, 9] != expected[9, 9]).any()
        if mode.endswith("A"):
            assert (after[..., -1] == expected[..., -1]).all()

    was, now = read_metadata(given, kind), read_metadata(data, kind)
    assert now["profile"] == held
    assert now["xmp"].decode() in (XMP.format(1), WITHOUT_ORIENTATION)
    assert now["xmp"] == was["xmp"] or orientation > 1
    assert now.get(274) in (None, 1)
    for tag in ("dpi", 271, 34665, 34853):
        assert now[tag] == was[tag], tag


@pytest.mark.parametrize(
    ("mode", "profile", "orientation"),
    [*(("RGB", icc.WIDE, orientation) for orientation in UPRIGHT), ("RGB", None, 6), ("RGBA", None, 6)],
    ids=lambda value: "own" if value is icc.WIDE else str(value),
)
def test_heic_comes_back_as_heic(tmp_path: Path, mode: str, profile: bytes | None, orientation: int) -> None:
    pixels = stored(mode, 8)
    given = written(pixels, "HEIF", mode, orientation, profile)
    picture = loaded(tmp_path, given, "HEIF")
    expected = UPRIGHT[orientation](pixels)
    assert (picture.mode, picture.pixels.shape, picture.format) == (mode, expected.shape, "HEIF")
    data = codecs.encode(pictures.compose(picture, PAINTED, masked(picture), feather=2), "HEIF", None)
    away = np.ones(picture.size[::-1], bool)
    away[2:17, 3:16] = False  # half the resolution of colour lets the edit touch its neighbours
    assert psnr(read_pixels(data, "HEIF")[away], picture.pixels[away]) > 45
    was, now = read_metadata(given, "HEIF"), read_metadata(data, "HEIF")
    assert now["profile"] == profile
    assert now["xmp"].decode() in (XMP.format(1), WITHOUT_ORIENTATION)
    for tag in (271, 34665, 34853):
        assert now[tag] == was[tag], tag


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_bmp_keeps_its_resolution(tmp_path: Path, mode: str) -> None:
    pixels = stored(mode, 8)
    given = written(pixels, "BMP", mode, 1, None)
    picture = loaded(tmp_path, given, "BMP")
    result = pictures.compose(picture, PAINTED, masked(picture), feather=2)
    data = codecs.encode(result, "BMP", {"tool": "diffedit"})
    assert (read_pixels(data, "BMP") == result.pixels).all()
    assert read_metadata(data, "BMP")["dpi"] == pytest.approx(DPI, abs=0.1)


def psnr(one: NDArray[Any], other: NDArray[Any]) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "rocket"])
@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"subsampling": 0}), ("JPEG", {}), ("AVIF", {}), ("HEIF", {})])
def test_a_photograph_is_not_visibly_coded_again(tmp_path: Path, name: str, kind: str, options: dict[str, int]) -> None:
    photograph = getattr(photographs, name)()
    picture = loaded(tmp_path, photo(photograph, kind, **options), kind)
    mask = np.zeros(picture.size[::-1], bool)
    mask[100:200, 100:220] = True
    data = codecs.encode(pictures.compose(picture, PAINTED, mask, feather=4), kind, None)
    assert psnr(read_pixels(data, kind)[~mask], picture.pixels[~mask]) >= 45


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_turned_photograph_is_not_visibly_coded_again(tmp_path: Path, orientation: int) -> None:
    """Whose sides are whole blocks, as a camera's are."""
    exif = Image.Exif()
    exif[274] = orientation
    picture = loaded(tmp_path, photo(photographs.astronaut(), "JPEG", exif=exif), "JPEG")
    assert psnr(read_pixels(codecs.encode(picture, "JPEG", None), "JPEG"), picture.pixels) >= 45


def photo(pixels: NDArray[np.uint8], kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, quality=92, **options)
    return buffer.getvalue()


def test_a_gif_gives_its_first_frame_and_says_so(tmp_path: Path) -> None:
    frames = [Image.new("L", (28, 20), grey) for grey in (50, 100, 150)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    picture = codecs.load(tmp_path / "moving.gif")
    assert picture.warnings == (f"{tmp_path / 'moving.gif'} has several frames; only the first is used.",)
    assert codecs.output_format(Path("-"), picture) == "PNG"


def test_heic_without_its_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = loaded(tmp_path, written(stored("RGB", 8), "HEIF", "RGB", 1, None), "HEIF")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for doing in (
        lambda: codecs.load(tmp_path / "picture.heic"),
        lambda: codecs.output_format(Path("x.heic"), picture),
    ):
        with pytest.raises(DiffEditError, match=r"pillow-heif; install it with: pip install 'diffedit-cli\[heic\]'\.$"):
            doing()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_cut_file_of_16_bits_is_damaged(tmp_path: Path, kind: str, share: float) -> None:
    whole = written(stored("RGB", 16), kind, "RGB", 1, None)
    with pytest.raises(InputError, match=r"is damaged \(.*\); use an intact copy\.|is not a picture that can be read"):
        loaded(tmp_path, whole[: int(len(whole) * share)], kind)


@pytest.mark.parametrize(
    ("mode", "name", "says"),
    [
        ("RGBA", "out.jpg", "has transparency, which JPEG cannot hold"),
        ("LA", "out.bmp", "has transparency, which BMP cannot hold"),
        ("RGB", "out.gif", "no extension that can be written"),
    ],
)
def test_what_a_format_cannot_hold_is_said_before_any_work(mode: str, name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        codecs.output_format(Path(name), pictures.Picture("given", stored(mode, 8), mode, "TIFF"))


@pytest.mark.parametrize("compression", [None, "lzw", "adobe_deflate", "zstd"])
@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("L", {"photometric": "miniswhite"}),
        ("L", {"photometric": "minisblack", "tile": (16, 16), "byteorder": ">"}),
        ("RGB", {"photometric": "rgb", "planarconfig": "separate", "byteorder": ">"}),
        ("RGBA", {"photometric": "rgb", "extrasamples": ["unassalpha"], "rowsperstrip": 3}),
    ],
    ids=["white is zero", "tiles", "planes", "strips"],
)
def test_a_tiff_of_16_bits_lies_in_any_way(
    tmp_path: Path, mode: str, options: dict[str, Any], compression: str | None
) -> None:
    pixels = stored(mode, 16)
    laid = pixels.transpose(2, 0, 1) if "planarconfig" in options else pixels.squeeze()
    laid = ~laid if options["photometric"] == "miniswhite" else laid
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, laid, compression=compression, metadata=None, **options)
    picture = loaded(tmp_path, buffer.getvalue(), "TIFF")
    assert (picture.mode, picture.warnings) == (mode, ())
    assert (picture.pixels == pixels).all()
    assert (read_pixels(codecs.encode(picture, "TIFF", None), "TIFF") == pixels).all()


def test_premultiplied_alpha_is_divided_out(tmp_path: Path) -> None:
    pixels = stored("RGBA", 16)
    pixels[..., 3] |= 0x8000
    laid = np.concatenate([pixels[..., :3] * (pixels[..., 3:] / 65535), pixels[..., 3:]], axis=-1).round().astype("u2")
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, laid, photometric="rgb", extrasamples=["assocalpha"], metadata=None)
    picture = loaded(tmp_path, buffer.getvalue(), "TIFF")
    assert np.abs(picture.pixels.astype(int) - pixels).max() <= 1


@pytest.mark.parametrize(("most", "notes"), [(255, []), (1023, [10]), (65535, [16])])
@pytest.mark.parametrize("kind", [b"P6", b"P3"])
def test_depth_that_a_ppm_loses_is_said(tmp_path: Path, kind: bytes, most: int, notes: list[int]) -> None:
    pixels = np.full((2, 3, 3), most, ">u2" if most > 255 else np.uint8)
    data = pixels.tobytes() if kind == b"P6" else " ".join(map(str, pixels.flat)).encode()
    path = tmp_path / "deep.ppm"
    path.write_bytes(kind + b"\n3 2\n%d\n" % most + data)
    found = codecs.load(path)
    assert found.warnings == tuple(f"{found.name} has {bits} bits a channel, of which 8 are kept." for bits in notes)
    assert found.pixels.max() == 255


@pytest.mark.parametrize("photometric", ["separated", "rgb"])
def test_depth_that_is_lost_is_said(tmp_path: Path, photometric: str) -> None:
    buffer = io.BytesIO()
    more = {"extrasamples": ["unspecified"]} if photometric == "rgb" else {}
    tifffile.imwrite(buffer, stored("CMYK", 16), photometric=photometric, metadata=None, **more)
    picture = loaded(tmp_path, buffer.getvalue(), "TIFF")
    assert picture.pixels.dtype == np.uint8
    assert picture.warnings == (f"{picture.name} has 16 bits a channel, of which 8 are kept.",)


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGB"), ("TIFF", "RGB"), ("TIFF", "RGBA"), ("TIFF", "L")])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_record_inner_tables_and_a_large_profile(tmp_path: Path, kind: str, mode: str, bits: int) -> None:
    beside = loaded(tmp_path, written(stored("RGB", 8), "JPEG", "RGB", 6, icc.CMYK * 5), "JPEG").metadata
    picture = pictures.Picture("given", stored(mode, bits), mode, kind, beside)
    data = codecs.encode(picture, kind, {"tool": "diffedit", "kind": "edit"})
    (tmp_path / "out").write_bytes(data)
    assert codecs.read_record(tmp_path / "out") == {"tool": "diffedit", "kind": "edit"}
    assert (read_pixels(data, kind) == picture.pixels).all()
    now = read_metadata(data, kind)
    assert now["profile"] == icc.CMYK * 5
    assert (now[271], now[34665]["ExposureTime"], now[34853]) == ("Maker", 0.25, {"GPSLatitudeRef": "N"})
    again = codecs.load(tmp_path / "out")
    assert (again.metadata.xmp, again.metadata.icc_profile) == (
        xmp_packets.mark_generated(beside.xmp),
        beside.icc_profile,
    )
    assert b"diffedit" not in codecs.encode(again, kind, None)


def test_16_bits_become_8_in_a_format_that_holds_no_more() -> None:
    picture = pictures.Picture("given", stored("RGB", 16), "RGB", "PNG")
    after = read_pixels(codecs.encode(picture, "WEBP", None), "WEBP")
    assert np.abs(after * 257.0 - picture.pixels).max() <= 128.5


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("bits", [8, 16])
def test_arrays_are_pictures(tmp_path: Path, mode: str, bits: int) -> None:
    pixels = stored(mode, bits)
    picture = codecs.from_array(pixels.squeeze())
    assert (picture.mode, picture.is_deep) == (mode, bits == 16)
    assert (picture.pixels == pixels).all()
    if bits == 8:
        assert codecs.from_image(picture.image).digest == picture.digest
    for kind in ("PNG", "TIFF"):
        again = loaded(tmp_path, codecs.encode(picture, kind, None), kind)
        assert again.pixels.dtype == pixels.dtype
        assert (again.pixels[..., -1] == pixels[..., -1]).all()
        assert (again.pixels[..., 0] == pixels[..., 0]).all()
