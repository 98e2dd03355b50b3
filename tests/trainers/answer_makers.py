"""Instructions about small images, and a model that answers them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from tasks.answer import FailedAnswer
from trainers.config.data import Data, PoolModel
from trainers.vlfeedback.instructions import Instruction

POOL = tuple(PoolModel(model=name) for name in ("a", "b", "c", "d", "e"))


def data(**changes: Any) -> Data:
    """A [data] of ten instructions for a pool of five."""
    return Data(**{"instructions": 10, "pool": POOL, **changes})


def asked(folder: Path, count: int = 10) -> list[Instruction]:
    """Instructions, each about a picture of its own."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (8, 8), (number * 7 % 256, number // 36, 9)).save(folder / "images" / f"{number}.png")
    return [
        Instruction(id=f"i/{number}", prompt=f"What is {number}?", image=f"{number}.png", kind="caption")
        for number in range(count)
    ]


class Echo:
    """Answers by its name and torch's seed; `fails` says which instructions it has no answer to, by id and how often it
    was asked."""

    def __init__(self, name: str, fails: Callable[[str, int], bool] = lambda id, times: False) -> None:
        self.name, self.fails = name, fails
        self.calls: list[list[str]] = []
        self.settings: list[dict[str, Any]] = []

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The content as it is."""
        return chat_history[0]["content"]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """An answer a request."""
        import torch

        self.calls.append([request.doc["id"] for request in requests])
        self.settings += [request.args[1] for request in requests]
        times = [sum(request.doc["id"] in call for call in self.calls) for request in requests]
        return [
            FailedAnswer("out of order")
            if self.fails(request.doc["id"], asked)
            else f"{self.name} {int(torch.randint(10**6, ()))} {request.args[0]}"
            for request, asked in zip(requests, times, strict=True)
        ]
