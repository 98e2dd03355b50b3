"""Several processes answer one run's questions, each those about its own images; the first has all answers at the end.

    torchrun --nproc-per-node 4 --no-python harness eval --model llava-1.5-7b --tasks hallucination

Divided by images, not by questions, so that no image is encoded twice. lm-eval knows nothing of it: it would divide
questions.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from support.processes import rank, world_size


class WorkerDone(BaseException):
    """Raised in every process but the first once its answers are handed over: judging, scoring and the board are the
    first one's."""


def divide(weights: Mapping[Hashable, int], parts: int) -> dict[Hashable, int]:
    """Which of `parts` processes gets what: the heaviest first, each to the one with least work; the same in every
    process."""
    loads = [0] * parts
    found: dict[Hashable, int] = {}
    for name, weight in sorted(weights.items(), key=lambda item: (-item[1], str(item[0]))):
        least = loads.index(min(loads))
        found[name] = least
        loads[least] += weight
    return found


def gather(mine: Sequence[Any]) -> list[Any]:
    """What every process has, in the first; WorkerDone in the others."""
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo")  # only words go to and fro, whatever the model computes on
    lists: list[Any] | None = [None] * world_size() if rank() == 0 else None
    dist.gather_object(list(mine), lists, dst=0)
    if lists is None:
        dist.destroy_process_group()
        raise WorkerDone
    lists[0] = list(mine)  # the very objects, not copies of them
    return [item for part in lists for item in part]
