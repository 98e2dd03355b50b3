"""Downloads of the hub's client as stages of ours: it draws no bars itself.

    with shown_as("download lmms-lab/POPE"):
        load_dataset("lmms-lab/POPE")           # reports bytes under that name, if any are downloaded

The client makes its bars of one class, which is ours inside; what it reads from its cache has none.
"""

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from support.progress import report

MODULES: Final = (("huggingface_hub.utils.tqdm", "tqdm"), ("huggingface_hub._snapshot_download", "hf_tqdm"))
"""Where the client has the class of its bars, under which name."""


class _Download:
    """The bars of one stage, summed."""

    def __init__(self, stage: str) -> None:
        self.stage, self.bars = stage, list[Any]()
        self.lock = threading.Lock()

    def tell(self) -> None:
        with self.lock:
            done, total = (sum(int(getattr(bar, name) or 0) for bar in self.bars) for name in ("n", "total"))
        if done:
            report(self.stage, done, max(done, total), "B")


@contextmanager
def shown_as(stage: str) -> Iterator[None]:
    """Inside, what the hub's client downloads is reported under this name."""
    modules = [(importlib.import_module(module), name) for module, name in MODULES]
    before = [getattr(module, name, None) for module, name in modules]
    if None in before:  # of a version that has it elsewhere: nothing is shown
        yield
        return
    mine = _bar_class(before[0], _Download(stage))
    try:
        for module, name in modules:
            setattr(module, name, mine)
        yield
    finally:
        for (module, name), original in zip(modules, before, strict=True):
            setattr(module, name, original)


def _bar_class(original: Any, download: _Download) -> Any:
    """A class like the client's own, which draws nothing and counts bytes."""

    class Bar(original):  # type: ignore[misc]
        def __init__(self, *args: Any, **given: Any) -> None:
            # Bytes that come over the network are counted once more as bytes of the file.
            own = given.get("unit") == "B" and not str(given.get("name") or "").endswith(".transfer")
            super().__init__(*args, **{**given, "disable": True})
            self.n = given.get("initial") or 0
            self.counts = own
            if own:
                with download.lock:
                    download.bars.append(self)

        def update(self, n: float | None = 1) -> None:
            if self.counts:
                self.n += n or 0
                download.tell()

    return Bar
