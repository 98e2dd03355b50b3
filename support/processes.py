"""Which of several processes this one is (torchrun, accelerate launch), and which device it computes on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


def rank() -> int:
    """Which process this is; 0 is the first, and the only one outside of torchrun or accelerate launch."""
    return int(os.environ.get("RANK", "0"))


def size() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def device_of(kind: str) -> str:
    """This process's device of a kind ("cuda", "cpu")."""
    return f"{kind}:{os.environ.get('LOCAL_RANK', '0')}" if kind != "cpu" and size() > 1 else kind


@contextmanager
def unseen() -> Iterator[None]:
    """Inside, libraries see a process that is alone."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK")
    held = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(held)


def processes() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return os.environ.get("RANK", "0") == "0"
