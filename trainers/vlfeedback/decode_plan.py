"""What decoding will take, before anything is loaded: rows, GPU memory, time and money of each member of the pool.

    found = plan(80_258, data, seed=0, facts={...})          # or the instructions, with the folder they are decoded in
    print(found.to_markdown())

Each estimate says what it is computed from. Time is that of shards decoded in this folder, if there are any; else one
of the assumptions below.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any, Final

from support.files import JsonLines
from support.markdown import cell, table
from tasks.judges import prices
from trainers.config.data import Data, PoolModel
from trainers.vlfeedback.answers import answers_file, draw, speed_file
from trainers.vlfeedback.instructions import Instruction

STEP: Final = 0.015
STEP_PER_BILLION: Final = 0.002
"""Assumed seconds a step of a batch takes, and on top for each billion parameters (29 ms for 7 B): a data-centre GPU,
transformers."""
FILLED: Final = 0.5
"""Assumed length of an answer, as a share of the most it may have."""
SERVED_AT_ONCE: Final = 16
SERVED_SECONDS: Final = 5.0
"""Assumed of a server: calls that run at once, and seconds a call takes."""
PROMPT_POSITIONS: Final = 60
"""Assumed of a prompt with its template, where there are no instructions to count."""
IMAGE_POSITIONS: Final = 1024
"""Assumed of an image, where nothing is known of the model."""
IMAGE_SIDE: Final = 640
"""Pixels, assumed of images that are paid for."""
OVERHEAD: Final = 1.15
"""GPU memory beside weights and kept keys and values, as a factor: activations, the vision tower, the allocator."""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What is known of a model before it is loaded."""

    model: str
    """The name by which a server, or this machine, knows it."""
    where: str = ""
    """Where its answers come from, as text."""
    served: bool = False
    weights: int | None = None
    """Bytes on the GPU."""
    parameters: int | None = None
    kept_per_position: int | None = None
    """Bytes of keys and values for one position of a row; None: as if every head of every layer kept its own, in half
    precision."""
    image_positions: int | None = None
    rows_at_once: int = 1
    source: str = ""
    """Where the sizes are from."""


@dataclass(frozen=True, kw_only=True)
class MemberPlan:
    """What one member has to do."""

    name: str
    model: str
    where: str
    rows: int
    """Answers wanted of it."""
    answered: int
    failed: int
    images: int | None
    """Different images it sees; None where there are no instructions yet."""
    max_new_tokens: int
    weights: int | None
    """Bytes."""
    memory: int | None
    """Bytes of GPU memory it is expected to take at its peak; None: not on this machine, or not known."""
    seconds: float | None
    """For what is left, about, without loading; None: not known."""
    rate: str
    """What `seconds` is computed from."""
    dollars: float | None
    """For what is left, about; None: no price is known, or it costs nothing by the token."""
    sizes: str
    """What `weights` and `memory` are computed from."""

    @property
    def left(self) -> int:
        """Answers that are not there yet."""
        return self.rows - self.answered


@dataclass(frozen=True, kw_only=True)
class DecodePlan:
    """What decoding takes."""

    instructions: int
    images: int | None
    answers: int
    """An instruction."""
    members: tuple[MemberPlan, ...]

    @property
    def rows(self) -> int:
        """Answers wanted of all members."""
        return sum(member.rows for member in self.members)

    @property
    def left(self) -> int:
        """Answers that are not there yet."""
        return sum(member.left for member in self.members)

    def to_json(self) -> dict[str, Any]:
        """All of it, for --json."""
        members = [asdict(member) | {"left": member.left} for member in self.members]
        totals = {"instructions": self.instructions, "images": self.images, "rows": self.rows, "left": self.left}
        return totals | {"members": members}

    def to_markdown(self) -> str:
        """A table of the members, and what the estimates are computed from."""
        images = f" about {self.images} images" if self.images is not None else ""
        head = f"{self.instructions} instructions{images}, {self.answers} answers each: "
        head += f"{self.rows} answers, {self.left} to be given."
        rows = []
        for member in self.members:
            counts = map(str, (member.rows, member.answered, member.failed))
            cost = "" if member.dollars is None else f"${member.dollars:,.2f}"
            needs = (_write_size(member.memory), _write_time(member.seconds), cost)
            rows.append([cell(member.name), *counts, *needs, cell(member.where)])
        header = ["member", "rows", "done", "failed", "GPU memory", "time", "cost", "answers come from"]
        peak = max((member.memory for member in self.members if member.memory is not None), default=None)
        seconds = [member.seconds for member in self.members if member.seconds is not None]
        dollars = [member.dollars for member in self.members if member.dollars is not None]
        time = _write_time(sum(seconds) if seconds else None)
        total = f"One model at a time: {_write_size(peak)} of GPU memory at most, {time} in all"
        total += f", ${sum(dollars):,.2f}." if dollars else "."
        if unknown := [member.name for member in self.members if member.seconds is None and member.left]:
            total += f" Not in it: {', '.join(unknown)}, of which no size is known."
        rates = dict.fromkeys(f"- {member.rate}" for member in self.members if member.rate)
        sized = [
            f"- memory of {', '.join(member.name for member in self.members if member.sizes == sizes)}: {sizes}"
            for sizes in dict.fromkeys(member.sizes for member in self.members if member.sizes)
        ]
        return "\n".join([head, "", table(header, rows), "", total, "", *rates, *sized]) + "\n"


def plan(
    instructions: Sequence[Instruction] | int,
    data: Data,
    seed: int,
    facts: Mapping[str, ModelFacts],
    folder: Path | None = None,
) -> DecodePlan:
    """What each member of the pool has to do; `facts` by member's name, `folder` where answers may be already. Loads no
    model."""
    counted = isinstance(instructions, int)
    if isinstance(instructions, int):
        instructions = [Instruction(id=str(number), prompt="", image="", kind="") for number in range(instructions)]
    drawn = draw(instructions, data, seed)
    mine: dict[str, list[Instruction]] = {member.name: [] for member in data.pool}
    for instruction in instructions:
        for member in drawn[instruction.id]:
            mine[member.name].append(instruction)
    speeds = _measured_speeds(folder)
    members = []
    for member in data.pool:
        planned = _plan_member(member, mine[member.name], data, facts[member.name], folder, counted=counted)
        members.append(_add_time(planned, facts, speeds))
    images = None if counted else len({instruction.image for instruction in instructions})
    answers = min(data.answers, len(data.pool))
    return DecodePlan(instructions=len(instructions), images=images, answers=answers, members=tuple(members))


def _plan_member(
    member: PoolModel, mine: Sequence[Instruction], data: Data, facts: ModelFacts, folder: Path | None, *, counted: bool
) -> MemberPlan:
    rows = JsonLines(answers_file(folder, member.name)).by_id if folder is not None else {}
    answered = sum("answer" in rows.get(instruction.id, ()) for instruction in mine)
    failed = sum("failed" in rows.get(instruction.id, ()) for instruction in mine)
    limit = member.max_new_tokens or data.max_new_tokens
    prompt = PROMPT_POSITIONS
    if mine and not counted:
        tokens = mean(prices.text_tokens(instruction.prompt + member.prompt_suffix) for instruction in mine)
        prompt = round(tokens) + PROMPT_POSITIONS // 2
    dollars = None
    if facts.served:
        shown = prices.image_tokens(facts.model, IMAGE_SIDE, IMAGE_SIDE)
        left = len(mine) - answered
        dollars = prices.price(facts.model, left * (prompt + shown), round(left * limit * FILLED), calls=left)
    memory = None
    if not facts.served and facts.weights is not None:
        positions = (facts.image_positions or IMAGE_POSITIONS) + prompt + limit
        kept = facts.kept_per_position or _estimate_kept(facts.parameters or facts.weights // 2)
        memory = round((facts.weights + facts.rows_at_once * positions * kept) * OVERHEAD)
    return MemberPlan(
        name=member.name,
        model=facts.model,
        where=facts.where,
        rows=len(mine),
        answered=answered,
        failed=failed,
        images=None if counted else len({instruction.image for instruction in mine}),
        max_new_tokens=limit,
        weights=facts.weights,
        memory=memory,
        seconds=None,
        rate="",
        dollars=dollars,
        sizes=f"{facts.source}; {facts.rows_at_once} rows at once" if memory is not None else "",
    )


def _estimate_kept(parameters: int) -> int:
    """Bytes of keys and values of a position in a decoder like Llama: L layers, width 128 L, 12 L (128 L)^2 weights."""
    layers = float((parameters / (12 * 128**2)) ** (1 / 3))
    return round(2 * layers * 128 * layers * 2)


def _add_time(member: MemberPlan, facts: Mapping[str, ModelFacts], speeds: Mapping[str, float]) -> MemberPlan:
    """The plan with its time: measured on this member, on the member nearest in size, or assumed."""
    if not member.left:
        return replace(member, seconds=0.0)
    own = facts[member.name]
    if member.name in speeds:
        rate = f"{member.name}: {1 / speeds[member.name]:.3g} answers a second, as its shards in this folder took"
        return replace(member, seconds=member.left * speeds[member.name], rate=rate)
    if own.served:
        rate = f"servers: assumed {SERVED_AT_ONCE} calls at once, {SERVED_SECONDS:g} s each"
        return replace(member, seconds=member.left * SERVED_SECONDS / SERVED_AT_ONCE, rate=rate)
    if not own.parameters:
        return member
    here = {name: facts[name].parameters or 0 for name in speeds if name in facts and not facts[name].served}
    sizes = {name: size for name, size in here.items() if size}
    if sizes:
        wanted = own.parameters
        near = min(sizes, key=lambda name: abs(sizes[name] - wanted))
        each = speeds[near] * wanted / sizes[near]
        rate = f"{member.name}: as {near} took in this folder, by parameters"
        return replace(member, seconds=member.left * each, rate=rate)
    step = STEP + STEP_PER_BILLION * own.parameters / 1e9
    seconds = member.left / own.rows_at_once * member.max_new_tokens * FILLED * step
    rate = (
        f"models here: assumed {STEP * 1000:g} ms a step and {STEP_PER_BILLION * 1000:g} ms more for each billion "
        f"parameters (a data-centre GPU), answers of {FILLED:.0%} of the most tokens they may have"
    )
    return replace(member, seconds=seconds, rate=rate)


def _measured_speeds(folder: Path | None) -> dict[str, float]:
    """Seconds per row of each member that has answered in this folder."""
    if folder is None or not speed_file(folder).exists():
        return {}
    rows = list(JsonLines(speed_file(folder)).by_id.values())
    taken = {row["model"]: [0.0, 0] for row in rows}
    for row in rows:
        taken[row["model"]][0] += row["seconds"]
        taken[row["model"]][1] += row["rows"]
    return {name: seconds / count for name, (seconds, count) in taken.items() if count and seconds}


def _write_size(size: int | None) -> str:
    return "" if size is None else f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def _write_time(seconds: float | None) -> str:
    if seconds is None:
        return "not known"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
