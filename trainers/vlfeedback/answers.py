"""Answers: every instruction goes to `answers` members of the pool, one model resident at a time with all its instructions.

Work is cut into shards of fixed content, each with its own seed, so that a run that was killed gives the same answers as one that was not.
"""

import hashlib
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from tasks.answer import FailedAnswer
from trainers.recipe import Data, PoolModel
from trainers.vlfeedback.instructions import Instruction
from trainers.vlfeedback.store import Rows

SHARD = 256
"""Instructions decoded between two writes."""


class AnswersLM(Protocol):
    """What is needed of an lm-eval LM."""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt as the model's template has it."""

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """One answer a request."""


def draw(instructions: Sequence[Instruction], data: Data, seed: int) -> dict[str, list[PoolModel]]:
    """Which members of the pool answer each instruction: seeded, without repeats, every member equally often."""
    chosen: dict[str, list[PoolModel]] = {}
    load = dict.fromkeys((member.name for member in data.pool), 0)
    for instruction in instructions:
        rng = random.Random(f"draw/{seed}/{instruction.id}")
        order = sorted(data.pool, key=lambda member: (load[member.name], rng.random()))
        chosen[instruction.id] = order[: min(data.answers, len(order))]
        for member in chosen[instruction.id]:
            load[member.name] += 1
    return chosen


def row_id(instruction: str, member: str) -> str:
    """The key of one answer."""
    return f"{instruction}|{member}"


def decode(
    instructions: Sequence[Instruction],
    data: Data,
    seed: int,
    images: Path,
    rows: Rows,
    load: Callable[[str], AnswersLM],
    done: Callable[[int], None],
) -> int:
    """Give every missing answer; returns how many failed. `load` makes an LM of a model's name, `done` hears how many more are there."""
    drawn = draw(instructions, data, seed)
    failed = 0
    for member in data.pool:
        mine = [instruction for instruction in instructions if member in drawn[instruction.id]]
        shards = [mine[start : start + SHARD] for start in range(0, len(mine), SHARD)]
        lm = None
        for number, shard in enumerate(shards):
            missing = set(rows.missing(row_id(instruction.id, member.name) for instruction in shard))
            if missing:
                lm = lm or load(member.model)
                answers = _generate(lm, shard, member, data, images, f"{seed}/{member.name}/{number}")
                failed += sum(isinstance(answer, FailedAnswer) for answer in answers)
                new = [
                    {"id": row_id(instruction.id, member.name), "answer": str(answer)}
                    for instruction, answer in zip(shard, answers, strict=True)
                    if not isinstance(answer, FailedAnswer)
                ]
                rows.append(row for row in new if row["id"] in missing)
            done(len(shard))
    return failed


def _generate(lm: AnswersLM, shard: Sequence[Instruction], member: PoolModel, data: Data, images: Path, key: str) -> list[str]:
    import torch
    from lm_eval.api.instance import Instance

    settings: dict[str, Any] = {"max_gen_toks": data.max_new_tokens, "until": []}
    settings |= (
        {"do_sample": True, "temperature": member.temperature, "top_k": 0, "top_p": 1.0} if member.temperature else {"do_sample": False}
    )
    requests = [
        Instance(
            request_type="generate_until",
            doc={"id": instruction.id},
            arguments=(
                lm.apply_chat_template([{"role": "user", "content": f"<image>{instruction.prompt}"}]),
                dict(settings),
                {"visual": [Image.open(images / instruction.image)]},
            ),
            idx=index,
        )
        for index, instruction in enumerate(shard)
    ]
    torch.manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big"))
    return lm.generate_until(requests, disable_tqdm=True)
