"""A picture from a file, from a data: URL or, where allowed, from the web: RGB, of a sane size, or one clear line."""

from __future__ import annotations

import base64
import binascii
import http.client
import io
import urllib.error
import urllib.request
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

LARGEST_FILE = 64 << 20  # bytes; a photograph has a few million
LARGEST_AREA = 100_000_000  # pixels: 400 MB as floats
SECONDS = 30
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")


def open_picture(source: str, *, allow_net: bool = False) -> Image:
    """The picture as RGB, turned upright as its EXIF says. An animation's first frame is taken.

    source: a path, a data: URL, or with `allow_net` an http(s) one. Raises UserError in one line for anything else.
    """
    shown = source if len(source) <= 80 else f"{source[:60]}…"
    return _decoded(_read(source, shown, allow_net), shown)


def _read(source: str, shown: str, allow_net: bool) -> bytes:
    if source.startswith("data:"):
        return _from_data(source, shown)
    if source.startswith(("http://", "https://")):
        if not allow_net:
            raise UserError(f"{shown} is on the net", "add --allow-net, or fetch it yourself and give the file")
        return _from_web(source, shown)
    path = Path(source).expanduser()
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise UserError(f"{shown} is no file", "give the path of a picture")
        if size > LARGEST_FILE:
            raise UserError(f"{shown} has {size / 1e6:,.0f} MB; pictures may have {LARGEST_FILE >> 20} MB", "shrink it")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"the picture {shown} cannot be read: {error.strerror}", "check the path") from None
    except ValueError as error:
        raise UserError(f"the picture {shown!r} is no path: {error}") from None


def _from_data(source: str, shown: str) -> bytes:
    head, comma, body = source.partition(",")
    if not comma or not head.endswith(";base64"):
        raise UserError(f"{shown} is no data: URL with base64 content", "write data:image/png;base64,…")
    if len(body) > LARGEST_FILE * 4 // 3:
        limit = f"the limit is {LARGEST_FILE >> 20} MB"
        raise UserError(f"a data: URL of {len(body) / 1e6:,.0f} MB is too large", limit)
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise UserError(f"{shown} does not hold base64: {error}") from None


def _from_web(source: str, shown: str) -> bytes:
    try:
        with urllib.request.urlopen(source, timeout=SECONDS) as answer:
            data: bytes = answer.read(LARGEST_FILE + 1)
    except (http.client.HTTPException, urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"{shown} cannot be fetched: {reason}") from None
    if len(data) > LARGEST_FILE:
        raise UserError(f"{shown} is larger than {LARGEST_FILE >> 20} MB")
    return data


def _decoded(data: bytes, shown: str) -> Image:
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            found = Image.open(io.BytesIO(data), formats=FORMATS)
            width, height = found.size
            if width * height > LARGEST_AREA:
                raise UserError(f"{shown} has {width} x {height} pixels; at most {LARGEST_AREA / 1e6:.0f} million fit")
            return ImageOps.exif_transpose(found).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        known = f"use {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise UserError(f"{shown} is no picture that can be read ({_reason(error)})", known) from None


def _reason(error: Exception) -> str:
    return "unknown format" if "cannot identify" in str(error) else str(error).splitlines()[0]
