"""FaceMAE: what does masked-autoencoder pretraining buy for face recognition?

From Python: `Recogniser(find_model("dlib"))` finds, embeds and recognises faces, `Gallery` keeps people,
`draw_mask` draws a masking strategy, `load_autoencoder` loads a pretrained network.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from facemae.masking.strategies import draw_mask
    from facemae.models.weights import load_autoencoder
    from facemae.recognition.gallery.store import Gallery
    from facemae.recognition.named_models import find_model
    from facemae.recognition.recogniser import Recogniser

__version__ = "0.1.0"
__all__ = ["Gallery", "Recogniser", "draw_mask", "find_model", "load_autoencoder"]

# Loaded when they are asked for: the command line imports this package too, and PyTorch takes seconds.
_MODULES = {
    "Gallery": "recognition.gallery.store",
    "Recogniser": "recognition.recogniser",
    "draw_mask": "masking.strategies",
    "find_model": "recognition.named_models",
    "load_autoencoder": "models.weights",
}


def __getattr__(name: str) -> Any:
    """Return a public name from the module that holds it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
