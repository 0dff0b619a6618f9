"""The only decoder: bytes nobody vouches for become an upright RGB picture or a coded refusal."""

from __future__ import annotations

import io
import os
import re
import stat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    WebPImagePlugin,
)

from facemae.errors import DataError

MAX_PIXELS = 50_000_000
MAX_BYTES = 100_000_000
MIN_SIDE = 20  # pixels; the face detector finds nothing smaller

# The first bytes choose the one decoder that runs: no registry of forty formats, no file name.
_DECODERS: tuple[tuple[re.Pattern[bytes], type[ImageFile.ImageFile]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), JpegImagePlugin.JpegImageFile),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImagePlugin.PngImageFile),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImagePlugin.WebPImageFile),
    (re.compile(rb"GIF8[79]a"), GifImagePlugin.GifImageFile),
    (re.compile(rb"BM.{12}[\x0c(48@l|]\0\0\0", re.DOTALL), BmpImagePlugin.BmpImageFile),
    (re.compile(rb"P[1-6][\s#]"), PpmImagePlugin.PpmImageFile),
)
_FOREIGN = (
    (re.compile(rb"....ftyp(hei|hev|mif1|msf1)", re.DOTALL), "HEIC"),
    (re.compile(rb"....ftypavi", re.DOTALL), "AVIF"),
    (re.compile(rb"II\*\0|MM\0\*"), "TIFF or camera RAW"),
    (re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "), "JPEG XL"),
    (re.compile(rb"\0\0\0\x0cjP  "), "JPEG 2000"),
    (re.compile(rb"8BPS"), "Photoshop"),
)
_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(DataError):
    """A file that cannot be used as a photo: a stable code, what happened, and the next step."""

    def __init__(self, code: str, reason: str, hint: str) -> None:
        super().__init__(f"{reason} {hint}")
        self.code = code
        self.reason = reason
        self.hint = hint


def read_file(path: Path) -> bytes:
    """Read a regular file; links, pipes, devices and folders are never opened.

    Raises:
        ImageError: E_SPECIAL, E_PERMISSION, or E_TOO_LARGE above `MAX_BYTES`.
    """
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("E_SPECIAL", "This is a link, folder or device.", "Use the picture file itself.")
        if status.st_size > MAX_BYTES:
            raise ImageError(
                "E_TOO_LARGE",
                f"The file has {status.st_size / 1e6:.0f} MB; the limit is {MAX_BYTES / 1e6:.0f} MB.",
                "Save a smaller copy.",
            )
        # Should a link or a pipe take the file's place right now, this neither follows nor waits.
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            return file.read()
    except OSError as error:
        reason = f"The file cannot be read ({error.strerror})."
        raise ImageError("E_PERMISSION", reason, "Check that it exists and may be read.") from error


def open_image(source: Path | bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode the first frame of a photo to 8-bit RGB, upright as its EXIF orientation says.

    Transparency is laid over white. The size is checked before any pixel is decoded.

    Raises:
        ImageError: the file is not a usable picture; its code says why.
    """
    data = read_file(source) if isinstance(source, Path) else source
    decoder = _choose_decoder(data)
    try:
        image = decoder(io.BytesIO(data))
        _check_size(image.size, max_pixels)
        image.load()
        turn = _turn(image)
        return _rgb(image) if turn is None else _rgb(image).transpose(turn)
    except ImageError:
        raise
    except Exception as error:  # on hostile bytes the decoders raise nearly everything, MemoryError included
        raise ImageError(
            "E_DAMAGED", "The picture is incomplete or damaged.", "Copy it again or pick another."
        ) from error


def encode_png(array: NDArray[np.uint8]) -> bytes:
    """Encode an (H, W, 3) uint8 array as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def _choose_decoder(data: bytes) -> type[ImageFile.ImageFile]:
    if not data:
        raise ImageError("E_EMPTY", "The file is empty (0 bytes).", "Copy it again or pick another.")
    for signature, decoder in _DECODERS:
        if signature.match(data):
            return decoder
    for signature, name in _FOREIGN:
        if signature.match(data):
            reason = f"{name} pictures are not supported."
            raise ImageError("E_FORMAT", reason, "Export the picture as JPEG, PNG or WebP.")
    raise ImageError("E_NOT_IMAGE", "This file is not a picture we can read.", "Use JPEG, PNG or WebP.")


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    shape = f"The picture is {size[0]} x {size[1]} pixels"
    if size[0] * size[1] > max_pixels:
        reason = f"{shape}; the limit is {max_pixels / 1e6:g} megapixels."
        raise ImageError("E_TOO_LARGE", reason, "Save a smaller copy.")
    if min(size) < MIN_SIDE:
        reason = f"{shape}; at least {MIN_SIDE} a side are needed."
        raise ImageError("E_TOO_SMALL", reason, "Use a larger picture.")


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # a broken EXIF block says nothing, and the pixels are fine without it
        return None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, which convert() would clip to white
        deep: NDArray[Any] = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((deep + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        photo = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo)
    return image.convert("RGB")
