"""Loading torchvision and timm without torch.compile's machinery, which takes longer than a recognition."""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

PACKAGE, UTILS = "torch._dynamo", "torch._dynamo.utils"


class Later(ModuleType):
    """Stands in for a module; whoever asks it for what it has not makes the module load, and gets that."""

    def __getattr__(self, name: str) -> Any:
        asked_in_passing = name.startswith("__") and (name, self.__name__) != ("__path__", PACKAGE)
        if asked_in_passing:  # by imports, and by those who look through all modules
            raise AttributeError(name)
        return getattr(_loaded(self.__name__), name)


def _is_compile_supported(kind: str) -> bool:
    return bool(_loaded(UTILS).is_compile_supported(kind))


STAND_INS = {PACKAGE: Later(PACKAGE), UTILS: Later(UTILS)}
vars(STAND_INS[UTILS])["is_compile_supported"] = _is_compile_supported
vars(STAND_INS[PACKAGE])["disable"] = lambda function, *_, **__: function
_LOADING = threading.Lock()


def _loaded(name: str) -> ModuleType:
    _put_back()
    return importlib.import_module(name)


def _put_back() -> None:
    for name, stand_in in STAND_INS.items():
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]


@contextlib.contextmanager
def without_compiler() -> Iterator[None]:
    """Keep torchvision and timm, where they are loaded inside, from loading the machinery.

    Each takes one function of it, for a layer that faces have no use for: torchvision gets one that loads the
    machinery when it is called, timm one that leaves its layer to be compiled. Whatever else is asked for
    meanwhile, in any thread, loads it.
    """
    with _LOADING:
        if not sys.modules.keys() & {*STAND_INS, "torchvision"}:
            for name, stand_in in STAND_INS.items():
                sys.modules.setdefault(name, stand_in)
        try:
            yield
        finally:
            _put_back()
