"""transformers' code of models, imported in half the time: without what compiling, several processes and losses of
object detection need.

    allow()                 # this process decodes only, and belongs to the command line
    with light_imports():
        from harness.engine.lm import SharedImageLM

torch's compiler is loaded when anything of it is used; decorators that keep functions out of it leave them as they
are. For a process that decodes, alone, with code that is not compiled: of the command line, not of a user's own
program, whose later imports would find transformers without these parts.
"""

import importlib.abc
import importlib.machinery
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final

from support.processes import world_size

COMPILER: Final = "torch._dynamo"
MODELS: Final = "transformers.modeling_utils"
"""Imported once; afterwards there is nothing to be left out."""
_ABSENT: Final = ("is_torch_distributed_available", "is_scipy_available")
"""What transformers asks for tensors shared by processes (two seconds), and for the Hungarian algorithm."""
_LIGHT: Final = (f"{COMPILER}._trace_wrapped_higher_order_op",)
"""Modules of the compiler that need no other."""
_OF_A_MODULE: Final = ("__all__", "__version__")
_loading = threading.RLock()


class _Later(ModuleType):
    """A module whose code runs when something of it is first asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in _OF_A_MODULE:
            raise AttributeError(name)
        if name in _DECORATORS:  # nothing is compiled as yet
            return _DECORATORS[name]
        self.run()
        return getattr(self, name)

    def run(self) -> None:
        """Run its code."""
        with _loading:
            if isinstance(self, _Later):
                loader: Any = self.__spec__.loader if self.__spec__ is not None else None
                self.__class__ = ModuleType  # type: ignore[assignment]
                loader.real.exec_module(self)


class _Loader(importlib.abc.Loader):
    def __init__(self, real: Any) -> None:
        self.real = real

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Later(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing yet."""


class _Finder(importlib.abc.MetaPathFinder):
    is_allowed = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.startswith(f"{COMPILER}.") and fullname not in _LIGHT:
            package = sys.modules.get(COMPILER)
            if isinstance(package, _Later):
                package.run()  # its modules need each other in this order
        if fullname != COMPILER:
            return None
        found = importlib.machinery.PathFinder.find_spec(fullname, path)
        if found is not None:
            found.loader = _Loader(found.loader)
        return found


def _leave_as_is(function: Any = None, *_: Any, **__: Any) -> Any:
    return function if function is not None else _leave_as_is


def _mark_constant(function: Any) -> Any:
    function._dynamo_marked_constant = True  # all that the compiler's own does
    return function


_DECORATORS: Final[dict[str, Callable[..., Any]]] = {
    "disable": _leave_as_is,
    "allow_in_graph": _leave_as_is,
    "assume_constant_result": _mark_constant,
}


def allow() -> None:
    """Say that this process decodes only."""
    _Finder.is_allowed = True


@contextmanager
def light_imports(*, compiled: bool = False) -> Iterator[None]:
    """Inside, transformers is imported so, where that was allowed; as ever for code that is to be `compiled`, by one of
    several processes, or where parts of it were imported before."""
    wanted = _Finder.is_allowed and not compiled and world_size() == 1
    if not wanted or MODELS in sys.modules or COMPILER in sys.modules:
        yield
        return
    from transformers import utils

    places = (utils, utils.import_utils)
    asked = {(place, name): getattr(place, name) for place in places for name in _ABSENT}
    for place, name in asked:
        setattr(place, name, lambda: False)
    sys.meta_path.insert(0, _Finder())
    try:
        yield
    finally:
        for (place, name), real in asked.items():
            setattr(place, name, real)
