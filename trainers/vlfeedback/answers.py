"""Answers: every instruction goes to `answers` members of the pool; one model at a time is in memory.

    decode(instructions, data, seed, folder, load=PoolModels())   # continues; gives counts by member
    read_answers(folder)["coco-7"]                                # {"llava-1.5-7b": "A cat.", ...}, without failed ones

The folder holds `images/`, `draw.jsonl` (the pool, and who answers what) and `answers/MEMBER.jsonl`, rows of {id,
model, answer}, or {id, model, failed, attempts} for an answer that could not be had: the next run asks for it again.

Work is cut into shards of fixed content, each with its own seed: a run that was killed, and several processes or
machines that divide the members among them, give the same answers as one run.
"""

import hashlib
import json
import logging
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from PIL import Image

from support.errors import DataError
from support.files import JsonLines, atomic_write_text, file_lock
from support.images import ImageRef, keep, picture
from support.parsing import parse_json
from support.progress import Stage
from support.records import batches
from tasks.answer import FailedAnswer
from trainers.config.data import Data, PoolModel
from trainers.vlfeedback.instructions import Instruction

log = logging.getLogger(__name__)

SHARD = 256
"""Instructions decoded between two writes of the file."""
RETRIES: Final = 2
"""How often a failed answer is asked for again in one run."""
LARGE: Final = 2_000_000
"""Pixels above which a picture is decoded when it is used, not held in memory for its whole shard."""


class AnswersLM(Protocol):
    """What is needed of an lm-eval LM."""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt as the model's template has it."""

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """One answer a request; a FailedAnswer where there is none."""


@runtime_checkable
class SeededLM(Protocol):
    """An LM that answers each request by itself, with the seed in its settings: a server. Others draw on torch's
    generator."""

    takes_seed: bool


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Instructions that a member answers in one go."""

    member: str
    number: int
    instructions: tuple[Instruction, ...]
    key: str
    """The seed of its answers is the digest of this."""


@dataclass(frozen=True, kw_only=True)
class MemberCounts:
    """How far one member is, by what is on disk."""

    wanted: int
    answered: int
    failed: int
    """Asked for without success; the next run asks again."""
    reasons: Mapping[str, int]
    """Why, and how often."""

    @property
    def missing(self) -> int:
        """Answers that are not there, failed ones among them."""
        return self.wanted - self.answered


# Which members answer an instruction.


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


def recorded_draw(
    folder: Path, instructions: Sequence[Instruction], data: Data, seed: int
) -> dict[str, list[PoolModel]]:
    """The draw that `folder` holds, made and written first if it holds none; DataError if it is of other settings."""
    path = folder / "draw.jsonl"
    if repeated := [id for id, times in Counter(instruction.id for instruction in instructions).items() if times > 1]:
        raise DataError(f"{len(repeated)} ids of instructions repeat, such as {repeated[0]!r}: answers are kept by id")
    settings = _deciding_settings(data, seed)
    if not path.exists():
        drawn = draw(instructions, data, seed)
        lines = [
            settings,
            *({"id": id, "members": [member.name for member in members]} for id, members in drawn.items()),
        ]
        atomic_write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
        return drawn
    try:
        held, *lines = [parse_json(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if differing := _first_difference(held, settings):
            advice = "take another folder, or remove this one's answers"
            raise DataError(f"{path}: answers here are of other settings: {differing}; {advice}")
        if [line["id"] for line in lines] != [instruction.id for instruction in instructions]:
            these = f"these {len(instructions)}"
            raise DataError(f"{path}: is a draw for other instructions than {these}; take another folder")
        members = {member.name: member for member in data.pool}
        return {line["id"]: [members[name] for name in line["members"]] for line in lines}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: no draw of ours: {type(error).__name__}: {error}") from None


def _deciding_settings(data: Data, seed: int) -> dict[str, Any]:
    """All that an answer depends on beside its instruction; not the address of a server, which may move."""
    pool = {}
    for member in data.pool:
        pool[member.name] = member.model_dump(exclude={"url", "label"}, exclude_defaults=True)
        pool[member.name]["max_new_tokens"] = _max_new_tokens(member, data)
    return {"seed": seed, "answers": data.answers, "pool": pool}


def _first_difference(held: Mapping[str, Any], wanted: Mapping[str, Any], where: str = "") -> str | None:
    for name in [*held, *(name for name in wanted if name not in held)]:
        before, now = held.get(name), wanted.get(name)
        if isinstance(before, dict) and isinstance(now, dict):
            if found := _first_difference(before, now, f"{where}{name}."):
                return found
        elif before != now:
            return f"{where}{name} was {json.dumps(before)}, now {json.dumps(now)}"
    if list(held) == list(wanted):
        return None
    return f"{where.rstrip('.') or 'settings'} was in another order: {', '.join(held)}"


def shards_of(
    instructions: Sequence[Instruction], drawn: Mapping[str, Sequence[PoolModel]], member: PoolModel, seed: int
) -> list[Shard]:
    """A member's work, cut up: the same however far it is, and whoever does it."""
    mine = [one for one in instructions if any(other.name == member.name for other in drawn[one.id])]
    shards = []
    for number, instructions in enumerate(batches(mine, SHARD)):
        key = f"{seed}/{member.name}/{number}"
        shards.append(Shard(member=member.name, number=number, instructions=tuple(instructions), key=key))
    return shards


# Files of answers.


def answers_file(folder: Path, member: str) -> Path:
    """Where a member's answers go."""
    safe = re.sub(r"[^A-Za-z0-9._@-]+", "-", member).strip(".-")[:80]
    mark = "" if safe == member else "-" + hashlib.sha256(member.encode()).hexdigest()[:8]
    return folder / "answers" / f"{safe}{mark}.jsonl"


def read_answers(folder: Path) -> dict[str, dict[str, str]]:
    """Instruction id -> member -> answer, of all that are there; members in the order they were drawn in, where a draw
    is recorded."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted((folder / "answers").glob("*.jsonl")):
        for id, row in JsonLines(path).by_id.items():
            if "answer" in row:
                found.setdefault(id, {})[row["model"]] = row["answer"]
    if not (folder / "draw.jsonl").exists():
        return found
    lines = (folder / "draw.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    order = {line["id"]: line["members"] for line in map(json.loads, lines)}
    for id in order.keys() & found.keys():
        names = [name for name in order[id] if name in found[id]]
        found[id] = {name: found[id][name] for name in (*names, *found[id])}
    return {id: found[id] for id in order if id in found}


def counts(folder: Path, drawn: Mapping[str, Sequence[PoolModel]]) -> dict[str, MemberCounts]:
    """How far each member of the pool is, read from disk."""
    wanted: dict[str, list[str]] = {}
    for id, members in drawn.items():
        for member in members:
            wanted.setdefault(member.name, []).append(id)
    found = {}
    for name, ids in wanted.items():
        rows = JsonLines(answers_file(folder, name)).by_id
        failed = [rows[id]["failed"] for id in ids if id in rows and "answer" not in rows[id]]
        answered = sum(id in rows and "answer" in rows[id] for id in ids)
        reasons = dict(Counter(failed).most_common())
        found[name] = MemberCounts(wanted=len(ids), answered=answered, failed=len(failed), reasons=reasons)
    return found


def speed_file(folder: Path) -> Path:
    """How long shards took here, for the plan of what is left."""
    return folder / "decode-speed.jsonl"


# Answering.


def decode(
    instructions: Sequence[Instruction], data: Data, seed: int, folder: Path, load: Callable[[PoolModel], AnswersLM]
) -> dict[str, MemberCounts]:
    """Have every answer given that is missing in `folder`; the counts of each member afterwards, read from disk.

    `load` makes an LM of a member of the pool. Several processes may do this in one folder at once: each takes members
    that no other works on, and at the end waits for the others.
    """
    drawn = recorded_draw(folder, instructions, data, seed)
    stage = Stage("answers", sum(map(len, drawn.values())))
    busy: list[PoolModel] = []
    for wait, members in ((False, data.pool), (True, busy)):
        for member in members:
            path = answers_file(folder, member.name)
            if wait:
                log.info("%s: another process is at its answers; waiting for it", member.name)
            with file_lock(path, wait=wait) as mine:
                if not mine:
                    busy.append(member)
                    continue
                rows, lm = JsonLines(path), None
                for shard in shards_of(instructions, drawn, member, seed):
                    if unanswered(shard, rows.by_id):
                        lm = lm or load(member)
                        started = time.monotonic()
                        new = answer_shard(lm, shard, member, data, folder / "images", rows.by_id)
                        rows.append(new)
                        speed = {"rows": len(new), "seconds": round(time.monotonic() - started, 3)}
                        id = f"{member.name}|{shard.number}"
                        JsonLines(speed_file(folder)).append([{"id": id, "model": member.name, **speed}])
                    stage.add(len(shard.instructions))
    return counts(folder, drawn)


def unanswered(shard: Shard, known: Mapping[str, Mapping[str, Any]]) -> list[Instruction]:
    """The shard's instructions without an answer among the member's rows (instruction id -> row)."""
    return [instruction for instruction in shard.instructions if "answer" not in known.get(instruction.id, ())]


def answer_shard(
    lm: AnswersLM, shard: Shard, member: PoolModel, data: Data, images: Path, known: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Rows for what is unanswered of a shard, in its order; `known` are the member's rows on disk.

    A shard of which anything was never asked is decoded in full where the model answers rows together, since what a row
    gets depends on those beside it. What failed is asked for again by itself.
    """
    left = unanswered(shard, known)
    answers: dict[str, str] = {}
    tries = {instruction.id: int(known.get(instruction.id, {}).get("attempts", 0)) for instruction in left}
    in_full = not isinstance(lm, SeededLM) and not all(tries.values())
    for _ in range(1 + RETRIES):
        failing = [one for one in left if isinstance(answers.get(one.id, FailedAnswer("")), FailedAnswer)]
        if not failing:
            break
        fresh = not all(tries[instruction.id] for instruction in failing)
        key = shard.key if fresh else f"{shard.key}/again/{max(tries.values())}"
        asked = shard.instructions if in_full else failing
        given = decode_shard(lm, asked, member, data, images, key)
        by_id = {one.id: answer for one, answer in zip(asked, given, strict=True)}
        for instruction in failing:
            answers[instruction.id] = by_id[instruction.id]
            tries[instruction.id] += 1
        in_full = False
    return [_make_row(instruction, member, answers[instruction.id], tries[instruction.id]) for instruction in left]


def _make_row(instruction: Instruction, member: PoolModel, answer: str, attempts: int) -> dict[str, Any]:
    if isinstance(answer, FailedAnswer):
        return {"id": instruction.id, "model": member.name, "failed": answer.error, "attempts": attempts}
    return {"id": instruction.id, "model": member.name, "answer": str(answer)}


def decode_shard(
    lm: AnswersLM, shard: Sequence[Instruction], member: PoolModel, data: Data, images: Path, key: str
) -> list[str | FailedAnswer]:
    """One answer an instruction, FailedAnswer where there is none; `key` seeds them all."""
    from lm_eval.api.instance import Instance

    served = isinstance(lm, SeededLM)
    settings: dict[str, Any] = {"max_gen_toks": _max_new_tokens(member, data), "until": [], "do_sample": False}
    if member.temperature:
        settings |= {"do_sample": True, "temperature": member.temperature, "top_k": 0, "top_p": member.top_p}
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")
    if served:
        settings["seed"] = seed >> 1  # they take 31 bits
    else:
        import torch

        torch.manual_seed(seed)
    answers: list[str | FailedAnswer] = [FailedAnswer("not asked")] * len(shard)
    requests: list[Any] = []
    places: list[int] = []
    for index, instruction in enumerate(shard):
        try:
            shown = _open_image(images, instruction.image, as_file=served)
        except OSError as error:
            answers[index] = FailedAnswer(f"image {instruction.image!r} can't be shown: {error}")
            continue
        content = f"<image>{instruction.prompt}{member.prompt_suffix}"
        prompt = lm.apply_chat_template([{"role": "user", "content": content}])
        arguments = (prompt, dict(settings), {"visual": [shown]})
        doc = {"id": instruction.id}
        requests.append(Instance(request_type="generate_until", doc=doc, arguments=arguments, idx=index))
        places.append(index)
    replies = lm.generate_until(requests, disable_tqdm=True) if requests else []
    if len(replies) != len(requests):
        raise DataError(f"{member.name}: gave {len(replies)} answers to {len(requests)} instructions")
    for place, reply in zip(places, replies, strict=True):
        answers[place] = reply
    return answers


def _max_new_tokens(member: PoolModel, data: Data) -> int:
    return data.max_new_tokens if member.max_new_tokens is None else member.max_new_tokens


def _open_image(images: Path, name: str, *, as_file: bool) -> Image.Image:
    """The image of this name in the folder `images`, decoded when it is first used; OSError for one that can't be
    opened, or lies elsewhere.

    A server is best sent the file as it is; and of large images, a shard's worth would not fit in memory.
    """
    try:
        path = (images / name).resolve()
        inside = path.is_relative_to(images.resolve())
    except ValueError as error:  # of odd paths
        raise OSError(str(error)) from None
    if not inside:
        raise OSError("it leads out of the run's images")
    shown = picture(keep(ImageRef.at(path)))
    return shown if as_file or shown.width * shown.height > LARGE else shown.copy()
