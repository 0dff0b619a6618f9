"""The only image decoder: untrusted bytes become an upright RGB picture, or an error with a code."""

from __future__ import annotations

import io
import os
import re
import stat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.WebPImagePlugin import WebPImageFile

from facemae.core import files
from facemae.core.errors import DataError

MAX_PIXELS = 50_000_000
MAX_BYTES = 50_000_000
MIN_SIDE = 20  # pixels; the face detector finds nothing smaller
KEPT_PIXELS = 16_000_000  # a larger photo is halved until it has no more; aligned faces need far fewer
# What the decoders cost is bounded before they run: together the limits keep the growth of the process at
# about 300 MB and the time at seconds, whatever the file says.
_MAX_WEBP_PIXELS = 16_000_000  # its decoder holds five copies of the picture
_MAX_PASSES_PIXELS = 32_000_000  # a JPEG in passes holds every coefficient, twice a byte for each sample
_MAX_PASSES = 50  # of a JPEG: each visits the whole picture, even one of a few bytes; usual are ten
_MAX_HEADER_BYTES = 16_000_000
_MAX_HEADER_READS = 20_000
_MAX_READS = 500_000
_STRIP_PIXELS = 1_000_000  # converted at once
_JPEG_END, _FILLING = b"\xff\xd9", b"\x55\xaa" * 512
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_PASS = re.compile(rb"\xff\xda\0(\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")

# The first bytes choose the one decoder that runs: no registry of forty formats, no file name.
_DECODERS: tuple[tuple[re.Pattern[bytes], type[ImageFile.ImageFile]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), JpegImageFile),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImageFile),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImageFile),
    (re.compile(rb"GIF8[79]a"), GifImageFile),
    (re.compile(rb"BM.{12}[\x0c(48@l|]\0\0\0", re.DOTALL), BmpImageFile),
    (re.compile(rb"P[4-6][\s#]"), PpmImageFile),
)
_FOREIGN = (
    (re.compile(rb"....ftyp(hei|hev|mif1|msf1)", re.DOTALL), "HEIC"),
    (re.compile(rb"....ftypavi", re.DOTALL), "AVIF"),
    (re.compile(rb"II\*\0|MM\0\*"), "TIFF or camera RAW"),
    (re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "), "JPEG XL"),
    (re.compile(rb"\0\0\0\x0cjP  "), "JPEG 2000"),
    (re.compile(rb"8BPS"), "Photoshop"),
    (re.compile(rb"P[1-3][\s#]"), "Netpbm text"),
)
_LUMA = np.array([19595, 38470, 7471], np.uint32)  # of red, green and blue; sums to 2 ** 16
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
_QUARTERS = [_TURNS[value] for value in (5, 6, 7, 8)]  # these exchange width and height


class Picture(NamedTuple):
    """A decoded photo."""

    image: Image.Image  # 8-bit RGB, upright
    size: tuple[int, int]  # of the upright file in pixels; a large photo is decoded at half of it, or less

    @property
    def scale(self) -> NDArray[np.float64]:
        """Return the file's pixels per pixel of the image, (2,), along x and y."""
        return np.array(self.size, np.float64) / self.image.size


class ImageError(DataError):
    """A file that cannot be used as a photo: a stable code, what happened, and the next step."""

    def __init__(self, code: str, reason: str, hint: str) -> None:
        super().__init__(f"{reason} {hint}")
        self.code, self.reason, self.hint = code, reason, hint


def followed(path: Path) -> Path:
    """Return the file that a path leads to, by links or without; an ImageError if that is nowhere."""
    if not path.is_symlink():
        return path
    if not path.exists():
        reason, hint = "This is a link to a file that is not there.", "Bring it back, or remove the link."
        raise ImageError("E_PERMISSION", reason, hint)
    return Path(os.path.realpath(path))


def read_file(path: Path, offset: int = 0, length: int | None = None) -> bytes:
    """Read a regular file or `length` bytes of it; links, pipes, devices and folders are never opened.

    Raises:
        ImageError: E_SPECIAL, E_PERMISSION, or E_TOO_LARGE above `MAX_BYTES`.
    """
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("E_SPECIAL", "This is a link, folder or device.", "Use the picture file itself.")
        size, what = (status.st_size, "file") if length is None else (length, "picture")
        # Should a link or a pipe take the file's place right now, this neither follows nor waits.
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            if offset:
                file.seek(offset)
            data = b"" if size > MAX_BYTES else file.read(MAX_BYTES + 1 if length is None else length)
        if data is None:  # it would have to wait, as for some files of the kernel's
            raise ImageError("E_SPECIAL", "This is a pipe or device.", "Use the picture file itself.")
        size = max(size, len(data))
        if size > MAX_BYTES:
            reason = f"The {what} has {size / 1e6:.0f} MB; the limit is {MAX_BYTES / 1e6:.0f} MB."
            raise ImageError("E_TOO_LARGE", reason, "Save a smaller copy.")
        return data
    except OSError as error:
        reason = f"The file cannot be read ({error.strerror})."
        raise ImageError("E_PERMISSION", reason, "Check that it exists and may be read.") from error


class _Rationed(io.BytesIO):
    """The file as a decoder sees it: one cut into millions of scraps is refused, not walked for minutes.

    Pillow walks the blocks of a header in Python, and joins some at quadratic cost: they get a small ration.
    """

    reads = _MAX_HEADER_READS
    end = _MAX_HEADER_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        """Read like any file."""
        self.reads -= 1
        if self.reads < 0 or self.tell() > self.end:
            reason = "The picture has an oversized header or is cut into too many small pieces."
            raise ImageError("E_TOO_LARGE", reason, "Save it again as an ordinary JPEG or PNG.")
        return super().read(size)

    def begin_pixels(self) -> None:
        """Grant the ration for the pixels; the header has been read."""
        self.reads, self.end = _MAX_READS, MAX_BYTES


def open_image(source: Path | bytes) -> Image.Image:
    """Return the image of `open_picture`, for those who need no coordinates of the file."""
    return open_picture(source).image


def open_picture(source: Path | bytes) -> Picture:
    """Decode the first frame of a photo to 8-bit RGB, upright as its EXIF orientation says.

    Transparency is laid over white. The size is checked before any pixel is decoded. A photo of more than
    `KEPT_PIXELS` comes back at half its width and height, or a quarter and so on.

    Raises:
        ImageError: the file is not a usable picture; its code says why.
    """
    data = read_file(source) if isinstance(source, Path) else source
    decoder = _choose_decoder(data)
    try:
        picture, turn = _decode_whole(decoder, data)  # which frees what the decoder holds
        if turn is None:
            return picture
        size = picture.size[::-1] if turn in _QUARTERS else picture.size
        return Picture(picture.image.transpose(turn), size)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:  # of the decoders that allocate early, before our check
        raise _too_large("The picture is far too large", MAX_PIXELS) from error
    except Exception as error:  # on hostile bytes the decoders raise nearly everything, MemoryError included
        raise ImageError(
            "E_DAMAGED", "The picture is incomplete or damaged.", "Copy it again or pick another."
        ) from error


def starts_like_picture(path: Path) -> bool:
    """Tell whether a file begins as a picture of any kind does; of one that cannot be read it is assumed."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return True
            start = file.read(32)
    except OSError:
        return True
    return any(signature.match(start) for signature, _ in (*_DECODERS, *_FOREIGN))


def is_animated(data: bytes) -> bool:
    """Tell whether a picture that `open_image` takes has more frames than the one that is used."""
    with _Rationed(data) as file:
        try:
            return bool(getattr(_choose_decoder(data)(file), "is_animated", False))
        except Exception:  # the frames after the first may be damaged; it is used all the same
            return False


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


def _decode_whole(decoder: type[ImageFile.ImageFile], data: bytes) -> tuple[Picture, Image.Transpose | None]:
    try:
        return _decode(decoder, data)
    except OSError:
        if decoder is not JpegImageFile or _JPEG_END in data[-2:]:
            raise
        # Where nothing but the end is missing, what is put before it is skipped; else it becomes pixels.
        if not _has_all_scans(data):
            raise
        whole = data.rstrip(b"\xff")
        restarts = len(_RESTART.findall(whole, whole.rfind(b"\xff\xda")))
        found = {
            files.sha256(_decode(decoder, whole + each + _JPEG_END)[0].image.tobytes())
            for each in (_FILLING, b"\xff%c" % (0xD0 + restarts % 8) + _FILLING)
        }
        picture, turn = _decode(decoder, whole + _JPEG_END)
        if found != {files.sha256(picture.image.tobytes())}:
            raise
        return picture, turn


def _has_all_scans(data: bytes) -> bool:
    """Tell whether a JPEG has every bit of every coefficient of its components, which may come in scans."""
    frame = max(data.rfind(b"\xff" + kind) for kind in (b"\xc0", b"\xc1", b"\xc2"))  # not a thumbnail's
    whole: set[tuple[int, int]] = set()
    for scan in _PASS.finditer(data, frame):
        end = scan.end() + 2 * scan[1][1]
        first, last, missing = data[end : end + 3]
        known = {(part, place) for part in data[scan.end() : end : 2] for place in range(first, last + 1)}
        whole = whole - known if missing & 15 else whole | known
    return len(whole) >= 64 * data[frame + 9]


def _decode(decoder: type[ImageFile.ImageFile], data: bytes) -> tuple[Picture, Image.Transpose | None]:
    with _Rationed(data) as file:
        image = decoder(file)
        file.begin_pixels()
        _check_size(image.size, _decoder_limit(image, data))
        size = image.size
        if (factor := _reduction(size)) > 1:  # a large JPEG is decoded at a fraction of its size and memory
            image.draft(None, (image.width // factor, image.height // factor))  # a no-op but for JPEG
        image.load()
        return Picture(_rgb(image), size), _turn(image)


def _decoder_limit(image: ImageFile.ImageFile, data: bytes) -> int:
    """Return how many pixels the decoder can take: some hold a picture many times over."""
    if isinstance(image, WebPImageFile):
        return _MAX_WEBP_PIXELS
    if not isinstance(image, JpegImageFile):
        return MAX_PIXELS
    passes = sum(1 for _ in _PASS.finditer(data))
    if passes > _MAX_PASSES:
        reason = f"The picture is stored in {passes} passes; the limit is {_MAX_PASSES}."
        raise ImageError("E_TOO_LARGE", reason, "Save it again as an ordinary JPEG.")
    return MAX_PIXELS if passes == 1 else _MAX_PASSES_PIXELS


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    shape = f"The picture is {size[0]} x {size[1]} pixels"
    if size[0] * size[1] > max_pixels:
        raise _too_large(shape, max_pixels)
    least = MIN_SIDE * _reduction(size)
    if min(size) < least:
        raise ImageError(
            "E_TOO_SMALL", f"{shape}; at least {least} a side are needed.", "Use a larger picture."
        )


def _too_large(what: str, max_pixels: int) -> ImageError:
    reason = f"{what}; the limit is {max_pixels / 1e6:g} megapixels."
    return ImageError("E_TOO_LARGE", reason, "Save a smaller copy.")


def is_grey(pictures: NDArray[np.uint8]) -> bool:
    """Tell whether pictures (..., 3) have no colour at all."""
    return bool((pictures == pictures[..., :1]).all())


def in_grey(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return pictures (..., 3) in grey, as Pillow weighs colours (ITU-R 601); grey ones stay as they are."""
    luma = (pictures.astype(np.uint32) @ _LUMA + 0x8000) >> 16
    return np.repeat(luma[..., None].astype(np.uint8), 3, axis=-1)


def _reduction(size: tuple[int, int]) -> int:
    factor = 1
    while size[0] * size[1] > KEPT_PIXELS * factor**2:
        factor *= 2
    return factor


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # a broken EXIF block says nothing, and the pixels are fine without it
        return None


def _rgb(image: Image.Image) -> Image.Image:
    """Convert by strips: whole copies of a large picture in between would multiply the memory."""
    if image.width * image.height <= _STRIP_PIXELS:
        return _opaque(image)
    factor = _reduction(image.size)
    rgb = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
    rows = max(1, _STRIP_PIXELS // (image.width * factor)) * factor
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        rgb.paste(_opaque(strip).reduce(factor), (0, top // factor))
    return rgb


def _opaque(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, which convert() would clip to white
        deep: NDArray[Any] = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((deep + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        photo = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo)
    return image.convert("RGB")
