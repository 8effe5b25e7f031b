"""What somebody uploads, made into pictures of ours: decoded, turned upright, scaled, and encoded anew.

Nothing of the file survives but its pixels: no EXIF, no location, no comment, nothing behind its end.
"""

from __future__ import annotations

import io
import logging
import threading
from typing import IO, Final

from msgspec import Struct
from PIL import Image, ImageCms

from webapp.jpeg_scans import too_many_scans

FORMATS: Final = ("JPEG", "PNG", "WEBP")
SQUARE: Final = 640
DISPLAY: Final = 1440
AVATAR: Final = 320

_QUALITY: Final = 84
_WHITE: Final = (255, 255, 255)
_ORIENTATION: Final = 0x0112  # Exif 2.3 section 4.6.4 A
# What turns a picture upright, by its Orientation; 1 is upright. From 5 on width and height change places.
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_KINDS_OF_INK: Final = {"L": "GRAY", "RGB": "RGB ", "CMYK": "CMYK"}  # ICC.1 section 7.2.6, padded to four

# A decoded picture takes up to four bytes a pixel. However many threads serve, few are in memory at once.
_ROOM: Final = threading.BoundedSemaphore(2)
_log: Final = logging.getLogger(__name__)


class BadImage(Exception):
    """The file is no picture that can be used; the message says why, for whoever uploads it."""


class Limits(Struct, frozen=True):
    """What is let in: `bytes` of the file, and `pixels`, which is its width times its height."""

    bytes: int
    pixels: int


class Picture(Struct, frozen=True):
    """A photo ready to be stored: its upright size in pixels, and two progressive JPEGs."""

    width: int
    height: int
    square: bytes
    display: bytes


def display_size(width: int, height: int) -> tuple[int, int]:
    """The size of the display picture of a photo of this size: within 1440, never larger than the photo."""
    scale = min(1.0, DISPLAY / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def square_side(width: int, height: int) -> int:
    """The side of its square thumbnail: 640, or less where the photo has less."""
    return min(SQUARE, width, height)


def picture(file: IO[bytes], limits: Limits) -> Picture:
    """Both pictures of a photo in `file`, which can seek. Raises BadImage.

    Of an animation the first frame is taken.
    """
    _weigh(file, limits)
    with _ROOM:
        upright, width, height = _decoded(file, limits, DISPLAY, SQUARE)
        square = _square(upright, square_side(width, height))
        return Picture(width, height, square, _jpeg(_resized(upright, display_size(width, height))))


def avatar(file: IO[bytes], limits: Limits) -> bytes:
    """The middle of the picture in `file` as a square JPEG of at most 320 pixels. Raises BadImage."""
    _weigh(file, limits)
    with _ROOM:
        upright, width, height = _decoded(file, limits, AVATAR, AVATAR)
        return _square(upright, min(AVATAR, width, height))


def _weigh(file: IO[bytes], limits: Limits) -> None:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if size > limits.bytes:
        raise BadImage(f"the file has {size} bytes; at most {limits.bytes} are allowed")
    if size == 0:
        raise BadImage("the file is empty")
    scans = too_many_scans(file.read())
    file.seek(0)
    if scans:
        raise BadImage("the JPEG is made of too many scans; save it anew")


def _decoded(file: IO[bytes], limits: Limits, longest: int, shortest: int) -> tuple[Image.Image, int, int]:
    """The picture upright, in RGB and sRGB, with its real width and height.

    It may be scaled down already, to twice what `longest` and `shortest` sides need.
    """
    try:
        with Image.open(file, formats=FORMATS) as opened:
            width, height = opened.size
            if width * height > limits.pixels:
                raise BadImage(
                    f"the picture is {width} x {height} pixels; at most {limits.pixels} in all are allowed"
                )
            turn = _orientation(opened)
            ready = _srgb(_reduced(opened, longest, shortest), opened.info.get("icc_profile"))
    except BadImage:
        raise
    except Exception as error:
        # Decoders raise whatever the bytes drive them into (OSError, SyntaxError, struct.error, IndexError,
        # DecompressionBombError…). All of them say: no picture. Ours to know is only which.
        _log.info("an upload could not be decoded: %s: %s", type(error).__name__, error)
        raise BadImage("the file is no complete JPEG, PNG or WebP picture") from error
    if turn in _UPRIGHT:
        ready = ready.transpose(_UPRIGHT[turn])
    return (ready, height, width) if turn >= 5 else (ready, width, height)


def _orientation(opened: Image.Image) -> int:
    try:
        turn = opened.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken metadata is no reason to refuse good pixels
        return 1
    return turn if isinstance(turn, int) and 1 <= turn <= 8 else 1


def _reduced(opened: Image.Image, longest: int, shortest: int) -> Image.Image:
    """Decoded, without transparency, 8 bits a channel: L, RGB or CMYK. JPEGs are decoded smaller at once."""
    width, height = opened.size
    scale = 2 * max(longest / max(width, height), shortest / min(width, height))
    if scale < 1:
        opened.draft(None, (round(width * scale), round(height * scale)))
    opened.load()
    plain = _eight_bits(opened)
    if scale < 1:
        plain = plain.resize(
            (max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BOX
        )
    return _opaque(plain)


def _eight_bits(opened: Image.Image) -> Image.Image:
    if opened.mode in ("L", "RGB", "RGBA", "CMYK"):
        return opened.convert("RGBA") if opened.mode != "RGBA" and opened.has_transparency_data else opened
    if opened.mode.startswith(("I", "F")):
        # 16 bits of grey: the upper half of each.
        return opened.convert("I").point(lambda level: level * (1 / 256)).convert("L")
    return opened.convert("RGBA" if opened.has_transparency_data else "RGB")


def _opaque(plain: Image.Image) -> Image.Image:
    """JPEG has no transparency: what shines through is white, as on a page."""
    if plain.mode != "RGBA":
        return plain
    ground = Image.new("RGB", plain.size, _WHITE)
    ground.paste(plain, mask=plain.getchannel("A"))
    return ground


def _srgb(plain: Image.Image, profile: object) -> Image.Image:
    """The same colours in sRGB, which is what a JPEG without a profile is taken for."""
    if isinstance(profile, bytes) and profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if source.profile.xcolor_space == _KINDS_OF_INK[plain.mode]:
                converted = ImageCms.profileToProfile(
                    plain, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
                )
                assert converted is not None  # None comes only with inPlace
                return converted
        except (ImageCms.PyCMSError, OSError, KeyError, ValueError):
            _log.info("an upload's colour profile cannot be used; its numbers are taken for sRGB")
    return plain.convert("RGB")


def _resized(upright: Image.Image, size: tuple[int, int]) -> Image.Image:
    return upright.resize(size, Image.Resampling.LANCZOS)


def _square(upright: Image.Image, side: int) -> bytes:
    edge = min(upright.size)
    left, top = (upright.width - edge) // 2, (upright.height - edge) // 2
    box = (left, top, left + edge, top + edge)
    return _jpeg(upright.resize((side, side), Image.Resampling.LANCZOS, box=box))


def _jpeg(made: Image.Image) -> bytes:
    made.info.clear()  # the encoder would write a comment that it finds there
    out = io.BytesIO()
    made.save(out, "JPEG", quality=_QUALITY, progressive=True, optimize=True)
    return out.getvalue()
