"""How good an aligned face is: numbers for every face, and warnings where a number is poor.

A doubtful face is kept and used; the warnings are there to be looked at. Shapes: H side of an aligned face.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Each limit with its reason; a face beyond it is doubtful, not bad. The shares are of LFW's 13,233 photos.
MIN_FACE_PX = 40.0  # box width in the photo: below, most of the aligned face is interpolation
MAX_YAW = 40.0  # degrees: beyond, the far eye lies on the outline and hides (1.0 %)
MAX_RESIDUAL_SHARE = 0.075  # of H: beyond are profiles and landmarks that form no frontal face (0.1 %)
MIN_SHARPNESS = 150.0  # of a median face blurred by 1.7 pixels (sigma, of 112); below look blurred (0.1 %)
MIN_SURE_SCORE = 0.95  # below, half the faces are covered, outside the picture or with an open mouth (0.2 %)

# Names what the measures and limits above were when faces were stored.
VERSION = f"2: {MIN_FACE_PX} {MAX_YAW} {MAX_RESIDUAL_SHARE} {MIN_SHARPNESS} {MIN_SURE_SCORE}"

SMALL, TURNED, ODD, BLURRED, UNSURE, LYING = "SMALL", "TURNED", "ODD", "BLURRED", "UNSURE", "LYING"
WARNINGS = {
    SMALL: f"the face is less than {MIN_FACE_PX:g} pixels wide in the photo",
    TURNED: f"the head is turned by more than about {MAX_YAW:g} degrees",
    ODD: "eyes, nose and mouth do not lie as in a face seen from the front",
    BLURRED: "the face is blurred, or too dark to show detail",
    UNSURE: f"the detector's confidence is below {MIN_SURE_SCORE:g}",
    LYING: "the photo seems to lie on its side or its head, and was turned upright",
}


def yaw(landmarks: NDArray[np.floating]) -> float:
    """Estimate how far the head is turned, in degrees, positive to the viewer's right, from (5, 2) landmarks.

    Along the line between the eyes, a turned head moves the tip of the nose off the middle between eyes and
    mouth corners. The tip stands about half an eye distance before that plane, so the shift over the eye
    distance is about tan(yaw) / 2. An estimate for sorting, good to some ten degrees.
    """
    left, right, nose, mouth_left, mouth_right = landmarks.astype(np.float64)
    axis = (right - left) + (mouth_right - mouth_left)
    length = float(np.hypot(*axis))
    if length < 1e-6:
        return 90.0
    axis /= length
    width = max(float((right - left) @ axis), float((mouth_right - mouth_left) @ axis), 1e-6)
    middle = (left + right + mouth_left + mouth_right) / 4
    return math.degrees(math.atan(2 * float((nose - middle) @ axis) / width))


def sharpness(face: NDArray[np.uint8]) -> float:
    """Return the variance of the Laplacian of an aligned (H, H, 3) face's grey values, at 56 pixels a side.

    Pertuz et al., Analysis of focus measure operators, 2013 (LAP4), from brows to chin, so that a sharp
    background does not hide a blurred face. At half the usual size, what an enlarged small face lacks
    anyway does not count as blur, and noise counts less.
    """
    small = Image.fromarray(face).convert("L").resize((56, 56), Image.Resampling.BOX)
    grey = np.asarray(small, np.float64)[14:50, 10:46]
    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    return float(laplacian.var())


def warnings(
    size: int,
    sharp: float,
    score: float | None = None,
    face_px: float | None = None,
    residual: float | None = None,
    yaw: float | None = None,
    quarter_turns: int = 0,
) -> list[str]:
    """Return the codes in `WARNINGS` that hold, of what was measured.

    `size` and `residual` are in pixels of the aligned face, `face_px` in pixels of the photo.
    """
    found = {
        SMALL: face_px is not None and face_px < MIN_FACE_PX,
        TURNED: yaw is not None and abs(yaw) > MAX_YAW,
        ODD: residual is not None and residual > MAX_RESIDUAL_SHARE * size,
        BLURRED: sharp < MIN_SHARPNESS,
        UNSURE: score is not None and score < MIN_SURE_SCORE,
        LYING: quarter_turns != 0,
    }
    return [code for code, holds in found.items() if holds]
