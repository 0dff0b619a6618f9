"""The README's moving picture: python docs/write_picture.py --pretrain results/random/0/pretrain.

A brush hides parts of a face, and beside it a trained masked autoencoder completes what is left.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from facemae.app.parts import completion
from facemae.core import files, layout
from facemae.core.errors import UsageError
from facemae.core.layout import Results
from facemae.data.images import open_image
from facemae.models.mae import MaskedAutoencoder
from facemae.models.weights import load_autoencoder
from facemae.recognition.recogniser import FaceFinder, only_face
from facemae.report import faces

SIDE, GAP = 224, 16  # pixels of a picture, and between two
BRUSH = 0.1  # its radius, as a share of the face's side
# From where to where each stroke goes, as shares of the face's sides: eyes, nose, mouth.
STROKES = [((0.22, 0.40), (0.78, 0.40)), ((0.50, 0.42), (0.50, 0.62)), ((0.30, 0.76), (0.72, 0.76))]
STEPS = 12  # of a stroke
FRAME, FIRST, LAST = 90, 900, 2500  # milliseconds
COLOUR = "#2E6FB7"
LARGEST = 1_500_000  # bytes

Pixels = NDArray[np.uint8]


def painting(pretrained: Path, face: Pixels) -> bytes:
    """Return a face (H, H, 3) being painted over and completed, as an animated WebP.

    Args:
        pretrained: Folder of the `pretrain` stage of a masked autoencoder.
        face: Aligned, of the network's size.
    """
    network, pretrain = load_autoencoder(pretrained)
    model = completion.Model(network, pretrain, pretrain.masks)
    points = [tuple(np.linspace(start, end, STEPS)[step]) for start, end in STROKES for step in range(STEPS)]
    hidden = np.zeros((network.encoder.side,) * 2, bool)
    pictures = [_frame(face, face, None)]
    for point in points:
        hidden |= _near(point, len(hidden))
        done = completion.complete(model, face, completion.painted_by_hand(hidden))
        pictures.append(_frame(done.masked, done.completed, point))
    pictures.append(_frame(done.masked, done.completed, None))
    times = [FIRST, *[FRAME] * len(points), LAST]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer, "WEBP", save_all=True, append_images=pictures[1:], duration=times, loop=0, quality=80
    )
    return buffer.getvalue()


def _near(point: tuple[float, float], side: int) -> NDArray[np.bool_]:
    """Return which patches (side, side) the brush touches whose centre is at x, y."""
    centres = (np.arange(side) + 0.5) / side
    return np.hypot(centres[None] - point[0], centres[:, None] - point[1]) < BRUSH


def _frame(left: Pixels, right: Pixels, brush: tuple[float, float] | None) -> Image.Image:
    """Return two faces side by side, with the brush at its place on the first."""
    picture = Image.new("RGB", (2 * SIDE + GAP, SIDE), "white")
    for place, face in enumerate((left, right)):
        shown = Image.fromarray(face).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        picture.paste(shown, (place * (SIDE + GAP), 0))
    if brush:
        x, y, reach = (SIDE * each for each in (*brush, BRUSH))
        ImageDraw.Draw(picture).ellipse((x - reach, y - reach, x + reach, y + reach), outline=COLOUR, width=3)
    return picture


def sample(pretrained: Path, name: str | None) -> Pixels:
    """Return a face of the results around a network: of this name, or the first that it was not trained on.

    Raises:
        UsageError: there is none.
    """
    paths = Results(pretrained.resolve().parents[2])
    known = faces.faces(paths)
    unseen = known[known["role"].isin([layout.ROLE_EVALUATION, layout.ROLE_TESTED])]["sample_id"].to_list()
    if not (name or unseen) or (name and name not in set(known["sample_id"])):
        raise UsageError(f"{paths.root} holds no such face; name one of its faces, or a photo with --photo.")
    return np.asarray(open_image(faces.face(paths, name or unseen[0])))


def main() -> None:
    """Write the picture that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pretrain", type=Path, required=True, help="folder of a pretrain stage")
    parser.add_argument("--sample", help="name of a face in the results around it")
    parser.add_argument("--photo", type=Path, help="or a photo of one face")
    parser.add_argument("--out", type=Path, default=Path("docs/images/painting.webp"))
    chosen = parser.parse_args()
    if chosen.photo:
        face = only_face(FaceFinder(_size(chosen.pretrain)).find(chosen.photo), "the picture").image
    else:
        face = sample(chosen.pretrain, chosen.sample)
    content = painting(chosen.pretrain, face)
    if len(content) > LARGEST:
        raise UsageError(f"The picture takes {len(content):,} bytes, of {LARGEST:,} allowed.")
    files.atomic_write(chosen.out, content)


def _size(pretrained: Path) -> int:
    network: MaskedAutoencoder = load_autoencoder(pretrained)[0]
    return network.encoder.side * network.encoder.patch_size


if __name__ == "__main__":
    main()
