"""JPEGs of very many scans, each a dozen bytes long and a pass over the whole picture."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from webapp.images import BadImage, Limits, avatar, picture
from webapp.jpeg_scans import MOST, too_many_scans

LIMITS = Limits(bytes=2_000_000, pixels=4_000_000)


def progressive(mode: str = "RGB", size: tuple[int, int] = (32, 24), **options: object) -> bytes:
    out = io.BytesIO()
    Image.effect_noise(size, 90).convert(mode).save(out, "JPEG", progressive=True, **options)
    return out.getvalue()


def with_more(plain: bytes, scans: int) -> bytes:
    """The last scan of a picture, that many times more: libjpeg only warns of it."""
    last = plain[plain.rindex(b"\xff\xda") : -2]
    return plain[:-2] + last * scans + plain[-2:]


@pytest.mark.parametrize("make", [picture, avatar], ids=["photo", "avatar"])
def test_a_picture_of_very_many_scans_is_refused(make: object) -> None:
    assert callable(make)
    make(io.BytesIO(with_more(progressive(), 5)), LIMITS)
    with pytest.raises(BadImage, match="too many scans"):
        make(io.BytesIO(with_more(progressive(), 5000)), LIMITS)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_what_encoders_make_is_let_in_with_all_that_stands_around_it(mode: str) -> None:
    # Scans within a segment, and behind the end, are none of this picture: thumbnails, films.
    thumbnails = progressive() * 40
    plain = progressive(mode, (320, 200), quality=95, exif=b"Exif\0\0" + thumbnails[:60_000])
    assert not too_many_scans(plain + thumbnails)
    assert picture(io.BytesIO(plain + thumbnails), LIMITS).width == 320


def test_they_are_counted_to_the_last() -> None:
    plain = progressive("L")
    own = plain.count(b"\xff\xda")
    assert not too_many_scans(with_more(plain, MOST - own))
    assert too_many_scans(with_more(plain, MOST - own + 1))
    assert too_many_scans(with_more(plain, MOST).replace(b"\xff\xda", b"\xff\xff\xff\xda"))  # filled: B.1.1.2


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xe0\0\0" * 9, b"\x89PNG\xff\xda" * 99]
)
def test_what_is_no_jpeg_or_breaks_off_has_none(data: bytes) -> None:
    assert not too_many_scans(data)
