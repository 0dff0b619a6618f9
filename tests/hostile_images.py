"""Photos as people really send them, and files made to harm: built into a folder, the same bytes every time.

Each comes with what the decoder must make of it: a picture, or the code of its refusal.
"""

import io
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, PngImagePlugin

from facemae.data.sources.orl import orl_photos

OK = None  # a picture comes out
ORIENTATION = 0x0112
UNDO = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that each orientation asks to take back
FINE = {"quality": 95, "subsampling": 0}


# --- building blocks ---


def gradient(height=30, width=40):
    """A picture without any symmetry, so that every turn or flip shows."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), (x + y) % 256], -1).astype(np.uint8)


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width, height, colour=2, rows=b"", interlaced=False):
    """An 8-bit PNG; `colour`: 0 grey, 2 RGB, 6 RGBA; without `rows` it is a header and no pixels."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, interlaced))
    pixels = png_chunk(b"IDAT", rows and zlib.compress(rows, 1))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + png_chunk(b"IEND", b"")


def in_front(data):
    """Return the PNG with chunks in front of its pixels."""
    return PNG[:33] + data + PNG[33:]


def exif(orientation):
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def turned(image, orientation):
    """Return the picture as a camera that writes this orientation stores it."""
    return image.transpose(Image.Transpose(UNDO[orientation])) if orientation > 1 else image


def passes(image, count):
    """Return a progressive JPEG whose last pass is there `count` times more."""
    data = encode(image, "JPEG", progressive=True)
    last = [match.start() for match in re.finditer(rb"\xff\xda\0", data)][-1]
    return data[:-2] + data[last:-2] * count + data[-2:]


PICTURE = Image.fromarray(gradient())
JPEG = encode(PICTURE, "JPEG", **FINE)
PNG = encode(PICTURE, "PNG")


# --- the corpus: name to (bytes, outcome) ---


def foreign():
    """What is not a picture, or none of ours, whatever the name says."""
    icon = encode(PICTURE.resize((32, 32)), "ICO")
    pages = encode(PICTURE, "TIFF", save_all=True, append_images=[PICTURE, PICTURE])
    return {
        "zero-bytes.jpg": (b"", "E_EMPTY"),
        "text.jpg": (b"Dear customer, this is not a photo.\n" * 9, "E_NOT_IMAGE"),
        "bitmap-like-text.jpg": (b"BMW is a car maker from Munich, in Bavaria. " * 9, "E_NOT_IMAGE"),
        "html.jpg": (b"<!doctype html><html></html>", "E_NOT_IMAGE"),
        "pdf.jpg": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "E_NOT_IMAGE"),
        "svg.jpg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "E_NOT_IMAGE"),
        "eps.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n", "E_NOT_IMAGE"),
        "icon.jpg": (icon, "E_NOT_IMAGE"),
        "heic.jpg": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "E_FORMAT"),
        "avif.jpg": (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "E_FORMAT"),
        "photoshop.jpg": (b"8BPS\0\1" + b"\0" * 40, "E_FORMAT"),
        "jpeg-2000.jpg": (b"\0\0\0\x0cjP  \r\n\x87\n", "E_FORMAT"),
        "jpeg-xl.jpg": (b"\0\0\0\x0cJXL \r\n\x87\n", "E_FORMAT"),
        "tiff.tif": (encode(PICTURE, "TIFF"), "E_FORMAT"),
        "tiff-pages.tif": (pages, "E_FORMAT"),
        "netpbm-text.ppm": (b"P2\n20 20\n255\n" + b"7 " * 400, "E_FORMAT"),
    }


def damaged():
    """What was a picture once."""
    return {
        "half.jpg": (JPEG[: len(JPEG) // 2], "E_DAMAGED"),
        "last-30-bytes-missing.jpg": (JPEG[:-30], "E_DAMAGED"),
        "three-bytes.jpg": (JPEG[:3], "E_DAMAGED"),
        "twelve-bit.jpg": (JPEG.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), "E_DAMAGED"),
        "half.png": (PNG[: len(PNG) // 2], "E_DAMAGED"),
        "wrong-checksum.png": (PNG[:20] + b"\xff" + PNG[21:], "E_DAMAGED"),
        "half.gif": (encode(PICTURE, "GIF")[:900], "E_DAMAGED"),
        "half.webp": (encode(PICTURE, "WEBP")[:90], "E_DAMAGED"),
        "half.bmp": (encode(PICTURE, "BMP")[:2000], "E_DAMAGED"),
        "half.ppm": (encode(PICTURE, "PPM")[:2000], "E_DAMAGED"),
        "header-only.png": (png(640, 480), "E_DAMAGED"),
    }


def sizes():
    """Too small, too large, and as large as can be."""
    flat = png(7000, 7000, 6, bytes(7000 * (7000 * 4 + 1)))
    grey = Image.new("L", (5600, 5600), 90)
    progressive = encode(grey, "JPEG", progressive=True)
    larger = progressive.replace(struct.pack(">HH", 5600, 5600), struct.pack(">HH", 6000, 6000), 1)
    return {
        "1x1.png": (encode(PICTURE.resize((1, 1)), "PNG"), "E_TOO_SMALL"),
        "19x19.png": (encode(PICTURE.resize((19, 19)), "PNG"), "E_TOO_SMALL"),
        "19x400.jpg": (encode(PICTURE.resize((19, 400)), "JPEG"), "E_TOO_SMALL"),
        "1x65000.jpg": (encode(Image.new("L", (1, 65000)), "JPEG"), "E_TOO_SMALL"),
        "30x1000000.png": (encode(Image.new("1", (1_000_000, 30)), "PNG"), "E_TOO_SMALL"),
        "20x20.png": (encode(PICTURE.resize((20, 20)), "PNG"), OK),
        "7000x7000.png": (flat, OK),
        "5600x5600-progressive.jpg": (progressive, OK),
        "6000x6000-progressive.jpg": (larger, "E_TOO_LARGE"),
        "4200x4200.webp": (encode(grey.resize((4200, 4200)), "WEBP", method=0), "E_TOO_LARGE"),
        "8000x8000-header.png": (png(8000, 8000), "E_TOO_LARGE"),
        "9000x9000.png": (encode(Image.new("1", (9000, 9000)), "PNG", compress_level=1), "E_TOO_LARGE"),
        "13000x13000.png": (png(13000, 13000, 0, bytes(13001)), "E_TOO_LARGE"),
        "60000x60000-header.png": (png(60000, 60000), "E_TOO_LARGE"),
    }


def bombs():
    """A few kilobytes that would cost minutes or gigabytes, scaled down."""
    text = b"k\0\0" + zlib.compress(b"a" * (PngImagePlugin.MAX_TEXT_MEMORY * 2))
    gif = encode(PICTURE, "GIF")
    frame = b",\0\0\0\0\xff\xff\xff\xff\0\x08\0;"  # of 65535 x 65535 on a small screen
    canvas = struct.pack("<I", 16382)[:3] * 2
    webp = b"WEBPVP8X\x0a\0\0\0\0\0\0\0" + canvas + encode(PICTURE, "WEBP")[12:]
    rle = encode(PICTURE.quantize(256), "BMP")[:1078].replace(b"\1\0\x08\0\0", b"\1\0\x08\0\1", 1)
    return {
        "text-bomb.png": (in_front(png_chunk(b"zTXt", text)), "E_DAMAGED"),
        "scraps.png": (in_front(png_chunk(b"teSt", b"") * 30_000), "E_TOO_LARGE"),
        "huge-chunk.png": (in_front(png_chunk(b"teSt", bytes(17_000_000))), "E_TOO_LARGE"),
        "comments.jpg": (JPEG[:2] + b"\xff\xfe\0\2" * 30_000 + JPEG[2:], "E_TOO_LARGE"),
        "fill-bytes.jpg": (JPEG[:2] + b"\xff" * 100_000 + JPEG[2:], "E_TOO_LARGE"),
        "passes.jpg": (passes(PICTURE, 100), "E_TOO_LARGE"),
        "comment-scraps.gif": (gif[:-1] + b"!\xfe" + b"\1x" * 30_000 + b"\0;", OK),  # behind the pixels
        "header-scraps.gif": (gif[:13] + b"\0" * 30_000 + gif[13:], "E_TOO_LARGE"),
        "frame.gif": (b"GIF89a\x20\0\x20\0\0\0\0" + frame, "E_TOO_LARGE"),
        "canvas.webp": (b"RIFF" + struct.pack("<I", len(webp)) + webp, "E_TOO_LARGE"),
        "long-comment.ppm": (b"P6\n#" + b"a" * 30_000 + b"\n20 20\n255\n" + bytes(1200), "E_TOO_LARGE"),
        "empty-runs.bmp": (rle + b"\x40\1" * 300_000, "E_TOO_LARGE"),
        "scaled-pixels.pgm": (b"P5\n1000 800\n254\n" + bytes(800_000), "E_TOO_LARGE"),
    }


def kinds():
    """Every format and mode of a good picture."""
    palette = PICTURE.quantize(16)
    seen = {"transparency": palette.getpixel((5, 5))}
    clear = PICTURE.copy()
    clear.putalpha(128)
    deep = Image.fromarray(gradient()[..., 0].astype(np.uint16) * 257)
    more = {"save_all": True, "append_images": [Image.new("RGB", PICTURE.size, "blue")]}
    cmyk = encode(PICTURE.convert("CMYK"), "JPEG", **FINE)
    grey = PICTURE.convert("L")
    return {
        "a-png.jpg": (PNG, OK),
        "plain.jpg": (JPEG, OK),
        "progressive.jpg": (encode(PICTURE, "JPEG", progressive=True), OK),
        "grey.jpg": (encode(grey, "JPEG"), OK),
        "cmyk-adobe.jpg": (cmyk, OK),
        "cmyk-unmarked.jpg": (re.sub(rb"\xff\xee\0\x0eAdobe.{7}", b"", cmyk, flags=re.DOTALL), OK),
        "zip-behind.jpg": (JPEG + b"PK\3\4" + bytes(999), OK),
        "broken-icc.jpg": (encode(PICTURE, "JPEG", icc_profile=b"no profile" * 9), OK),
        "grey.png": (encode(grey, "PNG"), OK),
        "one-bit.png": (encode(PICTURE.convert("1"), "PNG"), OK),
        "palette.png": (encode(palette, "PNG", **seen), OK),
        "grey-alpha.png": (encode(PICTURE.convert("LA"), "PNG"), OK),
        "alpha.png": (encode(clear, "PNG"), OK),
        "sixteen-bit.png": (encode(deep, "PNG"), OK),
        "sixteen-bit.pgm": (encode(deep, "PPM"), OK),
        "interlaced.png": (png(20, 20, 0, bytes(4 * 3 + 9 + 15 * 3 + 18 + 55 * 2 + 400), True), OK),
        "animated.png": (encode(PICTURE, "PNG", **more), OK),
        "plain.gif": (encode(palette, "GIF", **seen), OK),
        "animated.gif": (encode(PICTURE, "GIF", **more), OK),
        "plain.webp": (encode(PICTURE, "WEBP"), OK),
        "lossless-alpha.webp": (encode(clear, "WEBP", lossless=True), OK),
        "animated.webp": (encode(PICTURE, "WEBP", **more), OK),
        "plain.bmp": (encode(PICTURE, "BMP"), OK),
        "plain.ppm": (encode(PICTURE, "PPM"), OK),
        "one-bit.pbm": (encode(PICTURE.convert("1"), "PPM"), OK),
    }


def turns():
    """The eight orientations of one picture, and notes that make no sense."""
    notes = {"99": exif(99), "garbage": b"Exif\0\0II*\0\xff\xff\xff\xff", "huge": b"Exif\0\0" + bytes(60_000)}
    upright = {
        f"exif-{number}.png": (encode(turned(PICTURE, number), "PNG", exif=exif(number)), OK)
        for number in range(1, 9)
    }
    odd = {f"exif-{name}.jpg": (encode(PICTURE, "JPEG", exif=note), OK) for name, note in notes.items()}
    return upright | odd


def montage(faces, side, gap=20):
    """Return the faces in a row on grey, each `side` pixels wide."""
    wide = Image.new("RGB", (gap + len(faces) * (side + gap), side + side // 2 + 2 * gap), (120, 120, 120))
    for index, face in enumerate(faces):
        wide.paste(face.resize((side, side * 112 // 92)), (gap + index * (side + gap), gap))
    return wide


def cartoon():
    image = Image.new("RGB", (200, 200), "white")
    draw = ImageDraw.Draw(image)
    for box, colour in [
        ((30, 20, 170, 180), "gold"),
        ((65, 70, 85, 95), "black"),
        ((115, 70, 135, 95), "black"),
    ]:
        draw.ellipse(box, colour, "black")
    draw.arc((65, 100, 135, 150), 10, 170, "black", 5)
    return image


def portraits():
    """Real faces, and pictures without one."""
    faces = [Image.open(photo.path).convert("RGB") for photo in orl_photos()[:60:10]]
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    one = montage(faces[:1], 160)
    pictures = {
        "black": Image.new("RGB", (200, 200)),
        "noise": Image.fromarray(noise),
        "no-face": Image.fromarray(gradient(200, 300)),
        "cartoon": cartoon(),
        "one-face": one,
        "six-faces": montage(faces, 92),
        "blurred": one.filter(ImageFilter.GaussianBlur(12)),
        "dark": one.point(lambda value: value // 16),
        "duplicate": one,
        "duplicate-again": one,
        "rotated-45": one.rotate(45, expand=True),
        "rotated-90": one.rotate(90, expand=True),
        "rotated-180": one.rotate(180),
    }
    sized = {f"face-{side}px": montage(faces[:1], side) for side in (20, 40, 80)}
    return {f"{name}.png": (encode(image, "PNG"), OK) for name, image in (pictures | sized).items()}


def names():
    """Good pictures under names that break careless programs."""
    awkward = [
        "\x1b[2J\x1b]0;owned\x07.png",  # sorted first, so that a summary names it
        "smile \N{GRINNING FACE}.png",
        "new\nline.png",
        "-rf.png",
        "=cmd('x').png",
        " space .png",
        "%s.png",
    ]
    if os.name == "posix" and os.uname().sysname == "Linux":  # others refuse the name
        awkward.append(os.fsdecode(b"caf\xe9.png"))
    return dict.fromkeys([*awkward, "no-suffix", "UPPER.JPG", "a.b.c.png"], (PNG, OK))


def special(folder: Path) -> dict[str, str | None]:
    """Make what is no regular file, or may not be read."""
    (folder / "link.png").symlink_to("plain.bmp")
    (folder / "dangling.png").symlink_to("nowhere.png")
    (folder / "a.jpg").mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "unreadable.png").write_bytes(PNG)
    (folder / "unreadable.png").chmod(0)
    (folder / "200-megabytes.png").touch()
    os.truncate(folder / "200-megabytes.png", 200_000_000)
    unlike_files = dict.fromkeys(["link.png", "dangling.png", "a.jpg", "pipe.png"], "E_SPECIAL")
    readable = os.geteuid() == 0  # root reads everything
    return unlike_files | {
        "unreadable.png": OK if readable else "E_PERMISSION",
        "200-megabytes.png": "E_TOO_LARGE",
    }


def build(folder: Path) -> dict[str, str | None]:
    """Write the corpus into an existing empty folder; return each name's outcome: a code, None a picture."""
    expected = {}
    for group in (foreign, damaged, sizes, bombs, kinds, turns, portraits, names):
        for name, (data, outcome) in group().items():
            (folder / name).write_bytes(data)
            assert name not in expected, name
            expected[name] = outcome
    return expected | special(folder)
