"""Several processes answer one run's questions, each those about its own images; the first has all answers at the end.

    torchrun --nproc-per-node 4 --no-python harness eval --model llava-1.5-7b --tasks hallucination

Shared out by images, not by questions, so that no image is encoded twice. lm-eval knows nothing of it: it would share out questions.
"""

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any


class Relieved(BaseException):
    """Raised in every process but the first once its answers are handed over: judging, scoring and the board are the first one's."""


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


def shares(weights: Mapping[Hashable, int], parts: int) -> dict[Hashable, int]:
    """Who gets what: the heaviest first, each to whoever has least; the same in every process."""
    loads = [0] * parts
    found: dict[Hashable, int] = {}
    for name, weight in sorted(weights.items(), key=lambda item: (-item[1], str(item[0]))):
        least = loads.index(min(loads))
        found[name] = least
        loads[least] += weight
    return found


def gathered(mine: Sequence[Any]) -> list[Any]:
    """What every process has, in the first; Relieved in the others."""
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo")  # only words go to and fro, whatever the model computes on
    lists: list[Any] | None = [None] * size() if rank() == 0 else None
    dist.gather_object(list(mine), lists, dst=0)
    if lists is None:
        dist.destroy_process_group()
        raise Relieved
    lists[0] = list(mine)  # the very objects, not copies of them
    return [item for part in lists for item in part]
