"""What building preference data lacks and takes, before anything is answered or rated.

lacking = look_at_building(data, judge, folder)      # models of the pool, and sources that can't be had
plan_ratings_of(judge, data, folder)                 # the judge's calls, tokens and price
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Final

from PIL import Image

from harness.evaluation.judge_cost import Counting, JudgePlan, planned
from harness.evaluation.make_judge import NAME_ONE
from harness.models.hub import why_no_dataset
from harness.models.spec import ModelSpec, find
from support.errors import DataError, InputError, Need, NoKeyError
from support.files import JsonLines
from support.shards import is_there
from tasks.judges.openai import OpenAIJudge
from tasks.judges.protocol import Judge
from tasks.scenes.judge import ScenesJudge
from trainers.config.data import Data, InstructionSource, PoolModel
from trainers.vlfeedback.annotation import TASK
from trainers.vlfeedback.decode_plan import FILLED, IMAGE_SIDE, PROMPT_POSITIONS
from trainers.vlfeedback.rating_prompt import questions
from trainers.vlfeedback.sources import HUB, SCENES, declared, open_source, unknown

RATIONALE: Final = 40
"""Assumed tokens of a rating with its reason, where the ledger has no replies to tell."""


def look_at_building(
    data: Data, judge: Judge, folder: Path, served: bool = False
) -> tuple[list[ModelSpec], list[Need]]:
    """The pool's models without a server of their own, and what else is missing; `served`: all get a server for the
    run."""
    needs = []
    if not (folder / "instructions.jsonl").exists():
        needs += [need for source in data.sources for need in _needs_of_source(source)]
    others = [source.name for source in data.sources if source.name != SCENES]
    if isinstance(judge, ScenesJudge) and others:
        why = f"judge {judge.model!r} knows rendered scenes only"
        needs.append(Need(what=f"a judge for {', '.join(others)}", why=why, command=NAME_ONE))
    here = {f"member {member.name} of the pool": member.model for member in data.pool if member.url is None}
    models, lacking = find_models(here, correct="correct the recipe, or the --pool")
    return [spec for spec in models if not served or spec.backend == "transformers"], [*needs, *lacking]


def find_models(
    names: Mapping[str, str], *, correct: str, base: str | None = None
) -> tuple[list[ModelSpec], list[Need]]:
    """The models of these names, by what they are, and those that there are none of; `correct` says what to do then,
    `base` what adapters go on."""
    found, needs = [], []
    for what, name in names.items():
        try:
            found.append(find(name, base=base))
        except NoKeyError as error:
            needs.append(Need(what=what, why="its key is not set", command=str(error), is_key=True))
        except InputError as error:
            needs.append(Need(what=f"{what} {name!r}", why=str(error), command=correct))
    return found, needs


def with_instructions_there(data: Data) -> Data:
    """The same with no more instructions than its sources have, where all of these are files or folders that can be
    read; rows beyond the wanted number are not."""
    if not data.sources or any(_is_elsewhere(source) for source in data.sources):
        return data
    there = 0
    for source in data.sources:
        try:
            items = (item for item in open_source(source).items() if not isinstance(item, str))
            there += sum(1 for _ in islice(items, data.instructions - there))
        except DataError:
            return data  # the build says so
    return data.model_copy(update={"instructions": min(data.instructions, max(1, there))})


def _is_elsewhere(source: InstructionSource) -> bool:
    place = source.path or source.name
    return source.name == SCENES or not is_there(Path(place).expanduser())


def _needs_of_source(source: InstructionSource) -> Iterator[Need]:
    """What is missing of a source of instructions; nothing is downloaded. DataError for a name that none has."""
    what, known = f"source {source.name!r}", declared().get(source.name)
    place = source.path or (None if known else source.name)
    local = f"path = a local copy of {source.name}"
    if source.name == SCENES and source.path is None:
        return
    if place is not None and not place.startswith(HUB):
        if not is_there(Path(place).expanduser()):
            if source.path is None:
                raise unknown(source.name)
            yield Need(what=what, why=f"no file or folder {place!r}", command=local)
    elif place is None and known is not None:
        if known.needs and source.images is None:
            way = f"images = the folder or zip with {known.needs}"
            yield Need(what=what, why="the hub has none of its pictures", command=way)
        if not known.hub:
            yield Need(what=what, why="it is not on the hub", command=f"path = a copy of {known.site}")
        elif why := why_no_dataset(known.hub, source.revision):
            yield Need(what=what, why=f"{known.hub}: {why}", command=local)
    elif place is not None:
        name, _, revision = place.removeprefix(HUB).partition("@")
        if why := why_no_dataset(name, revision or source.revision):
            yield Need(what=what, why=f"{name}: {why}", command=local)
    if source.images is not None and not Path(source.images).expanduser().exists():
        why = f"no folder or zip {source.images!r}"
        yield Need(what=f"pictures of {source.name!r}", why=why, command="images = the folder or zip that has them")


def plan_ratings_of(judge: OpenAIJudge, data: Data, folder: Path | None = None) -> JudgePlan:
    """What rating the answers takes that are not rated yet in `folder`: each like a supposed one, of half the tokens
    that answers may have."""
    members = sorted(data.pool, key=lambda member: _most_tokens(member, data))[: min(data.answers, len(data.pool))]
    tokens = [round(_most_tokens(member, data) * FILLED) for member in members]
    texts = [f"{number} " + "word " * (count - 1) for number, count in enumerate(tokens)]
    asked = questions("word " * PROMPT_POSITIONS, texts, data.mode)
    counting, blank = Counting(judge), Image.new("RGB", (IMAGE_SIDE, IMAGE_SIDE))
    counting.ask_many([(prompt, blank) for prompt in asked.values()])
    if judge.client.ledger.completion_tokens("", judge.model) is None:
        least = sum(len(aspects) * len(texts) * RATIONALE for aspects in asked)
        counting.completion_tokens = max(counting.completion_tokens, least)
    rated = len(JsonLines(folder / "ratings.jsonl").by_id) if folder is not None else 0
    left = max(0, data.instructions - rated)
    return planned(counting, TASK, times=left)


def _most_tokens(member: PoolModel, data: Data) -> int:
    return member.max_new_tokens or data.max_new_tokens
