"""Uploads: what is let in, what is refused, and that nothing but pixels comes out."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image, ImageCms, PngImagePlugin

from webapp.images import BadImage, Limits, Picture, avatar, display_size, picture, square_side

LIMITS = Limits(bytes=2_000_000, pixels=4_000_000)
RED, BLUE = (220, 30, 30), (30, 30, 220)


def halves(size: tuple[int, int] = (1600, 1200), mode: str = "RGB") -> Image.Image:
    """Red on the left, blue on the right."""
    made = Image.new("RGB", size, RED)
    made.paste(BLUE, (size[0] // 2, 0, *size))
    return made.convert(mode)


def encoded(made: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    out = io.BytesIO()
    made.save(out, kind, **options)
    return out.getvalue()


def made_of(data: bytes, limits: Limits = LIMITS) -> Picture:
    return picture(io.BytesIO(data), limits)


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def near(pixel: Any, colour: tuple[int, ...], by: int = 12) -> bool:
    return all(abs(a - b) <= by for a, b in zip(pixel, colour, strict=True))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_each_kind_becomes_two_progressive_jpegs(kind: str) -> None:
    done = made_of(encoded(halves(), kind))
    assert (done.width, done.height) == (1600, 1200)
    square, display = opened(done.square), opened(done.display)
    assert (square.size, display.size) == ((640, 640), (1440, 1080))
    for each in (square, display):
        assert (each.format, each.mode) == ("JPEG", "RGB")
        assert each.info["progressive"] == 1
        assert near(each.convert("RGB").getpixel((20, 20)), RED)
        assert near(each.convert("RGB").getpixel((each.width - 20, 20)), BLUE)


@pytest.mark.parametrize(
    ("size", "display", "square"),
    [
        ((1, 1), (1, 1), 1),
        ((300, 200), (300, 200), 200),
        ((1440, 1440), (1440, 1440), 640),
        ((4000, 3), (1440, 1), 3),
        ((3, 4000), (1, 1440), 3),
        ((3000, 1000), (1440, 480), 640),
    ],
    ids=str,
)
def test_sizes(size: tuple[int, int], display: tuple[int, int], square: int) -> None:
    done = made_of(encoded(halves(size), "PNG"))
    assert (done.width, done.height) == size
    assert opened(done.display).size == display == display_size(*size)
    assert opened(done.square).size == (square, square)
    assert square == square_side(*size)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_orientation_is_applied(turn: int, kind: str) -> None:
    """A red corner at the upper left of what the camera meant, stored in each of the eight ways."""
    meant = Image.new("RGB", (120, 80), BLUE)
    meant.paste(RED, (0, 0, 40, 30))
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that undoes each orientation
    stored = meant.transpose(Image.Transpose(back[turn])) if turn > 1 else meant
    exif = Image.Exif()
    exif[0x0112] = turn
    done = made_of(encoded(stored, kind, exif=exif.tobytes()))
    assert (done.width, done.height) == (120, 80)
    upright = opened(done.display).convert("RGB")
    assert upright.size == (120, 80)
    assert near(upright.getpixel((10, 10)), RED, 40)
    assert near(upright.getpixel((110, 10)), BLUE, 40)
    assert near(upright.getpixel((10, 70)), BLUE, 40)


SECRET = b"52N13E-at-home"


def with_location() -> bytes:
    exif = Image.Exif()
    exif[0x010E] = SECRET.decode()
    exif.get_ifd(0x8825)[1] = "N"
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    exif.get_ifd(0x8825)[29] = SECRET.decode()
    xmp = b"<x:xmpmeta>" + SECRET + b"</x:xmpmeta>"
    return encoded(halves(), exif=exif.tobytes(), comment=SECRET, xmp=xmp) + SECRET


def with_text() -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("Location", SECRET.decode())
    text.add_itxt("XML:com.adobe.xmp", SECRET.decode())
    return encoded(halves(), "PNG", pnginfo=text) + SECRET


def in_webp() -> bytes:
    exif = Image.Exif()
    exif[0x010E] = SECRET.decode()
    return encoded(halves(), "WEBP", exif=exif.tobytes(), xmp=SECRET)


@pytest.mark.parametrize("source", [with_location, with_text, in_webp], ids=lambda each: each.__name__)
def test_metadata_is_gone(source: Callable[[], bytes]) -> None:
    data = source()
    assert SECRET in data
    done = made_of(data)
    for each in (done.square, done.display, avatar(io.BytesIO(data), LIMITS)):
        assert SECRET not in each
        assert not dict(opened(each).getexif())
        assert not {"exif", "comment", "xmp", "icc_profile", "photoshop"} & set(opened(each).info)


def test_an_avatar_is_the_middle() -> None:
    made = Image.new("RGB", (900, 300), RED)
    made.paste(BLUE, (300, 0, 600, 300))
    done = opened(avatar(io.BytesIO(encoded(made, "PNG")), LIMITS)).convert("RGB")
    assert done.size == (300, 300)
    assert all(near(done.getpixel((x, 150)), BLUE) for x in (8, 150, 291))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_of_png(mode: str) -> None:
    made = Image.linear_gradient("L").resize((64, 64))
    if mode.startswith("I"):
        made = made.convert("I").point(lambda level: level * 257)
    done = opened(made_of(encoded(made.convert(mode), "PNG")).display).convert("L")
    assert near((done.getpixel((32, 1)),), (0,), 16)
    assert near((done.getpixel((32, 62)),), (255,), 16)
    if mode != "1":
        assert near((done.getpixel((32, 32)),), (128,), 24)


def test_what_is_transparent_is_white() -> None:
    made = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    made.paste((*RED, 255), (32, 0, 64, 64))
    done = opened(made_of(encoded(made, "PNG")).display).convert("RGB")
    assert near(done.getpixel((4, 32)), (255, 255, 255))
    assert near(done.getpixel((60, 32)), RED)


def test_a_transparent_colour_of_a_palette() -> None:
    made = Image.new("P", (64, 64), 0)
    made.putpalette([0, 0, 0, *RED])
    made.paste(1, (32, 0, 64, 64))
    done = opened(made_of(encoded(made, "PNG", transparency=0)).display).convert("RGB")
    assert near(done.getpixel((4, 32)), (255, 255, 255))
    assert near(done.getpixel((60, 32)), RED)


def test_cmyk() -> None:
    done = opened(made_of(encoded(halves((64, 64), "CMYK"))).display)
    assert done.mode == "RGB"
    assert near(done.getpixel((4, 4)), RED, 30)


def test_a_colour_profile_is_applied() -> None:
    """Numbers of a profile that is not sRGB come out as other numbers; of a broken one, as they are."""
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert near(opened(made_of(encoded(halves((64, 64)), icc_profile=lab)).display).getpixel((4, 4)), RED)
    wide = linear(lab)
    done = opened(made_of(encoded(Image.new("RGB", (64, 64), (128, 128, 128)), icc_profile=wide)).display)
    assert near(done.getpixel((4, 4)), (188, 188, 188))  # half the light is 188 in sRGB
    broken = encoded(halves((64, 64)), icc_profile=b"\x00" * 200)
    assert near(opened(made_of(broken).display).getpixel((4, 4)), RED)


def linear(profile: bytes) -> bytes:
    """The profile with curves that are straight lines: each `curv` or `para` tag says gamma 1."""
    data = bytearray(profile)
    for at in range(struct.unpack_from(">I", data, 128)[0]):
        name, offset, _ = struct.unpack_from(">4sII", data, 132 + 12 * at)
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            assert bytes(data[offset : offset + 4]) in (b"para", b"curv")
            data[offset : offset + 12] = b"curv" + bytes(8)
    return bytes(data)


def animation(kind: str) -> bytes:
    frames = [Image.new("RGB", (40, 40), colour) for colour in (RED, BLUE)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    data = animation(kind)
    assert opened(data).n_frames == 2  # type: ignore[attr-defined]  # of kinds that have frames
    assert near(opened(made_of(data).display).convert("RGB").getpixel((20, 20)), RED)


def test_a_phones_jpeg_of_several_pictures() -> None:
    data = encoded(halves((64, 64)), "MPO", save_all=True, append_images=[halves((32, 32))])
    assert opened(data).format == "MPO"
    assert opened(made_of(data).display).size == (64, 64)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes, *more: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    return png(4, 4, zlib.compress(bytes(52)), chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000), 9)))


GIF = encoded(halves((20, 20)), "GIF")
JPEG = encoded(halves((200, 200)))
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
HOSTILE = {
    "empty": b"",
    "text": b"hello",
    "svg": SVG,
    "gif": GIF,
    "tiff": encoded(halves((20, 20)), "TIFF"),
    "bmp": encoded(halves((20, 20)), "BMP"),
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(/etc/passwd) run\n",
    "half a jpeg": JPEG[: len(JPEG) // 2],
    "head of a jpeg": JPEG[:4],
    "half a png": (half := encoded(halves(), "PNG"))[: len(half) // 2],
    "half a webp": (rest := encoded(halves(), "WEBP", lossless=True))[: len(rest) // 2],
    "png without pixels": png(4, 4, b""),
    "png with too few pixels": png(40, 40, zlib.compress(bytes(10))),
    "png with wrong sums": encoded(halves((20, 20)), "PNG").replace(b"IDAT", b"IDAX"),
    "png of no width": png(0, 4, zlib.compress(b"")),
    "png of more pixels than there are": png(0x7FFFFFFF, 0x7FFFFFFF, zlib.compress(bytes(1000))),
    "png that unpacks to gigabytes": png(60_000, 60_000, zlib.compress(bytes(10_000_000), 9)),
    "png with a text that unpacks to much": text_bomb(),
    "jpeg with a size of zero": JPEG.replace(b"\x00\xc8\x00\xc8", b"\x00\x00\x00\x00"),
    "jpeg of the greatest size": JPEG.replace(b"\x00\xc8\x00\xc8", b"\xff\xdc\xff\xdc"),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    for make in (picture, avatar):
        with pytest.raises(BadImage):
            make(io.BytesIO(data), LIMITS)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_too_many_pixels_are_refused_before_they_are_decoded(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(Image.new("RGB", (2001, 2000)), kind)

    def load(self: Image.Image) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(BadImage, match="2001 x 2000 pixels; at most 4000000"):
        made_of(data)


def test_as_many_pixels_as_allowed() -> None:
    assert made_of(encoded(Image.new("RGB", (2000, 2000)), "PNG")).width == 2000


def test_too_many_bytes_are_refused_unread() -> None:
    with pytest.raises(BadImage, match="at most 100 are allowed"):
        made_of(JPEG, Limits(bytes=100, pixels=4_000_000))


def test_damage_anywhere_is_a_picture_or_refused() -> None:
    """No byte of a file makes it raise anything but BadImage."""
    for kind in ("JPEG", "PNG", "WEBP"):
        data = encoded(halves((48, 32)), kind, exif=Image.Exif().tobytes())
        for at in range(0, len(data), max(1, len(data) // 150)):
            for value in (0x00, 0xFF):
                try:
                    made_of(data[:at] + bytes([value]) + data[at + 1 :])
                except BadImage:
                    continue


def test_a_page_in_a_picture_does_not_come_through() -> None:
    """A file that is a picture and a script at once comes out as a picture alone."""
    script = b"<script>alert(document.domain)</script>"
    done = made_of(encoded(halves((64, 64)), comment=script) + script)
    assert b"<script" not in done.square + done.display
