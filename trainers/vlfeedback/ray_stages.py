"""Decoding, hashing and pair building as Ray Data pipelines: the same work as the plain path, on all cores or nodes,
and the same output.

    with cluster(None, cpus=8):                                        # here; or a cluster that runs: cluster("auto")
        decode_by_ray(instructions, data, seed, folder, load, workers=2)      # beside answers.decode
        list(hash_by_ray(images, cache, workers=8))                           # beside HashCache.facts_of_all
        list(pairs_by_ray(rows, rule, counts, workers=8))                     # beside pair_rules.pair_up

Actors compute and this process alone writes, so a killed actor loses nothing: Ray starts it again and gives it its
items again, and what was lost all the same is not on disk, which is where each stage looks for what is left. Actors
read images by their paths: on several nodes the run's folder must be on a file system that all of them see.
"""

import hashlib
import importlib.util
import logging
import os
import socket
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from support.errors import ClusterError, JudgeError, RunError, first_line
from support.files import JsonLines, file_lock
from support.images import ImageRef
from support.progress import Stage
from support.records import batches
from trainers.config.data import Data, PoolModel
from trainers.data.image_hashes import HashCache, ImageFacts, coco_in, hash_file, problem_in
from trainers.data.pair_rules import NamedRule, PairCounts, balanced, pair_up
from trainers.data.rows import Preference, Row
from trainers.vlfeedback.answers import (
    AnswersLM,
    MemberCounts,
    Shard,
    answer_shard,
    answers_file,
    counts,
    recorded_draw,
    shards_of,
    unanswered,
)
from trainers.vlfeedback.instructions import Instruction

log = logging.getLogger(__name__)

Work = Callable[[Any], Any]

RETRIES: Final = 5
"""How often an item is given to an actor again after the actor died under it: an item that kills every actor must not
hold up the rest."""
PICTURES: Final = 64
"""Pictures hashed between two writes."""
ROWS: Final = 500
"""Rows that an actor pairs up at a time."""


# The engine.


@contextmanager
def cluster(address: str | None = None, *, cpus: int | None = None) -> Iterator[None]:
    """Ray for the length of a run: a cluster of this machine's `cpus` (None: all), or the one at `address` ("auto",
    "HOST:PORT"). ClusterError.

    Without the dashboard, whose port runs the code of whoever reaches it, and without usage reports.
    """
    if importlib.util.find_spec("ray") is None:
        raise ClusterError("--ray needs the extra: pip install 'vlm-harness[ray]'")
    if address is None and cpus is not None and cpus < 1:
        raise ClusterError(f"--ray: {cpus} CPUs; at least 1 is needed")
    # Read when Ray is imported, or by the processes it starts. What it has to say of dead workers would go to stdout.
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    os.environ |= {"RAY_DEDUP_LOGS_SKIP_REGEX": ".", "RAY_BACKEND_LOG_LEVEL": "fatal"}
    import ray
    import ray.data

    # "local", since with None an address in RAY_ADDRESS would be taken.
    where = (
        {"address": "local", "num_cpus": cpus, "include_dashboard": False} if address is None else {"address": address}
    )
    try:
        _check_reachable(address)
        ray.init(**where, log_to_driver=False, logging_level=logging.CRITICAL)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError) as error:
        raise ClusterError(f"--ray{f' {address}' if address else ''}: {first_line(error)}") from None
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str | None) -> None:
    """OSError where nobody listens at HOST:PORT; Ray itself would try for minutes."""
    host, colon, port = (address or "").rpartition(":")
    if colon and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


@dataclass(frozen=True, kw_only=True)
class Branch:
    """Items that one pool of actors works on."""

    name: str
    make: Callable[[], Work]
    """Called once in each actor; what it gives is called with each item."""
    items: Iterable[Any]
    workers: int
    cpus: float = 1.0
    """Of the cluster, an actor: less than 1 where it waits for a server."""


class _Actor:
    def __init__(self, name: str, make: Callable[[], Work]) -> None:
        self.name = name
        self.work = make()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        from ray import cloudpickle

        done = [cloudpickle.dumps(self.work(cloudpickle.loads(item))) for item in batch["item"]]
        return {"name": [self.name] * len(done), "number": list(batch["number"]), "result": done}


def run(branches: Sequence[Branch]) -> Iterator[tuple[str, int, Any]]:
    """(branch, number of the item, result) in the order of completion, all branches at once.

    An item whose actor died more than RETRIES times is left out."""
    import pyarrow as pa
    import ray
    import ray.data
    from ray import cloudpickle

    parts = []
    for branch in branches:
        # One at a time into Ray's store, which goes to disk where memory is short; never all of them in this process.
        blocks = [
            ray.put(pa.table({"number": [number], "item": pa.array([cloudpickle.dumps(item)], pa.large_binary())}))
            for number, item in enumerate(branch.items)
        ]
        if blocks:
            parts.append(_map_items(ray.data.from_arrow_refs(blocks), branch, len(blocks)))
    if not parts:
        return
    pipeline = parts[0].union(*parts[1:]) if len(parts) > 1 else parts[0]
    try:
        for batch in pipeline.iter_batches(batch_size=None, prefetch_batches=0):
            for name, number, result in zip(batch["name"], batch["number"], batch["result"], strict=True):
                yield str(name), int(number), cloudpickle.loads(result)
    except (ray.exceptions.RayError, ray.data.exceptions.RayDataUserCodeException) as error:
        raise RunError(f"--ray: {first_line(error)}; what is done is kept, the same command does the rest") from None


def _map_items(items: Any, branch: Branch, count: int) -> Any:
    from ray.data import ActorPoolStrategy

    with warnings.catch_warnings():
        # Ray announces that 2.64 drops options of actors given this way, and has no other way for these two.
        warnings.filterwarnings("ignore", message=".*ray_remote_args", category=DeprecationWarning)
        return items.map_batches(
            _Actor,
            fn_constructor_args=(branch.name, branch.make),
            batch_size=1,
            # One item at a time: one that kills its actor takes no other with it.
            compute=ActorPoolStrategy(size=min(branch.workers, count), max_tasks_in_flight_per_actor=1),
            num_cpus=branch.cpus,
            max_restarts=-1,
            max_task_retries=RETRIES,
        )


def in_order(branch: Branch) -> Iterator[Any]:
    """The results of one branch in the order of its items. RunError where one is missing at the end."""
    held: dict[int, Any] = {}
    following = sent = 0

    def counted() -> Iterator[Any]:
        nonlocal sent
        for item in branch.items:
            sent += 1
            yield item

    for _, number, result in run([replace(branch, items=counted())]):
        held[number] = result
        while following in held:
            yield held.pop(following)
            following += 1
    if following < sent:
        raise RunError(
            f"{branch.name}: part {following} was lost: every actor that had it died; the same command tries again"
        )


# Answers.


@dataclass(frozen=True, kw_only=True)
class _ShardWork:
    """A shard with what its member has on disk of it."""

    shard: Shard
    known: dict[str, dict[str, Any]]


class _Answerer:
    """Answers shards; its LM is made with the first one, so that an LM that can't be made is reported, not fatal."""

    def __init__(self, load: Callable[[PoolModel], AnswersLM], member: PoolModel, data: Data, images: Path) -> None:
        self.load, self.member, self.data, self.images = load, member, data, images
        self.lm: AnswersLM | None = None
        self.stopped: str | None = None
        """Why no further shard can be answered."""

    def __call__(self, work: _ShardWork) -> tuple[list[dict[str, Any]], str | None]:
        """The shard's new rows; or none and the reason: such a shard is asked in full the next time."""
        if self.stopped is not None:
            return [], self.stopped
        try:
            self.lm = self.lm or self.load(self.member)
            return answer_shard(self.lm, work.shard, self.member, self.data, self.images, work.known), None
        except Exception as error:
            why = f"{type(error).__name__}: {first_line(error)}"
            if self.lm is None or isinstance(error, JudgeError):  # a server that stays down, a budget that is spent
                self.stopped = why
            return [], why


def decode_by_ray(
    instructions: Sequence[Instruction],
    data: Data,
    seed: int,
    folder: Path,
    load: Callable[[PoolModel], AnswersLM],
    workers: int = 1,
) -> dict[str, MemberCounts]:
    """`answers.decode` with `workers` actors a member, all members at once; how far each is afterwards, by what is on
    disk.

    `load` is called in the actors: it must be picklable, and reach its model over HTTP or bring a device for each
    actor. Shards that could not be asked are logged with the reason; they are missing, and asked by the next run.
    """
    drawn = recorded_draw(folder, instructions, data, seed)
    stage = Stage("answers", sum(map(len, drawn.values())))
    with ExitStack() as stack:
        rows: dict[str, JsonLines] = {}
        shards: dict[str, list[Shard]] = {}
        for member in data.pool:
            path = answers_file(folder, member.name)
            # All processes lock members in the pool's order, so none waits for another in a circle.
            if not stack.enter_context(file_lock(path, wait=False)):
                log.info("%s: another process is at its answers; waiting for it", member.name)
                stack.enter_context(file_lock(path, wait=True))
            rows[member.name] = JsonLines(path)
            cut = shards_of(instructions, drawn, member, seed)
            shards[member.name] = [shard for shard in cut if unanswered(shard, rows[member.name].by_id)]
            stage.add(sum(len(shard.instructions) for shard in cut if shard not in shards[member.name]))
        branches = [
            Branch(
                name=member.name,
                make=partial(_Answerer, load, member, data, folder / "images"),
                items=[
                    _ShardWork(shard=shard, known=_known(shard, rows[member.name])) for shard in shards[member.name]
                ],
                workers=workers,
                cpus=0.1,
            )
            for member in data.pool
        ]
        for name, number, (new, problem) in run(branches):
            shard = shards[name][number]
            if problem is None:
                rows[name].append(new)
                stage.add(len(shard.instructions))
            else:
                log.info("%s: shard %d was not asked: %s", name, shard.number, problem)
    return counts(folder, drawn)


def _known(shard: Shard, rows: JsonLines) -> dict[str, dict[str, Any]]:
    return {
        instruction.id: rows.by_id[instruction.id] for instruction in shard.instructions if instruction.id in rows.by_id
    }


# Image hashes.


def _hash_images(known: Collection[str], images: Iterable[ImageRef]) -> list[tuple[ImageFacts, int | None]]:
    """Facts and COCO id of each image; files whose digest is `known` are not decoded, and get no hashes and problem."""
    return [(_hash_one(known, image), coco_in(image)) for image in images]


def _hash_one(known: Collection[str], image: ImageRef) -> ImageFacts:
    facts = ImageFacts(digest="", hashes=None)
    try:
        data = image.read()
        facts = ImageFacts(digest=hashlib.sha256(data).hexdigest(), hashes=None)
        return facts if facts.digest in known else replace(facts, hashes=hash_file(data))
    except OSError as error:
        return replace(facts, problem=problem_in(error))


def hash_by_ray(images: Iterable[ImageRef], cache: Path, *, workers: int) -> Iterator[ImageFacts]:
    """`HashCache(cache).facts_of_all` by actors; only this process writes to `cache`, which may lie on its own disk."""
    with HashCache(cache) as kept:
        make = partial(partial, _hash_images, kept.digests())
        for batch in in_order(Branch(name="hashing", make=make, items=batches(images, PICTURES), workers=workers)):
            for facts, _ in batch:
                if facts.hashes is not None:
                    kept.keep(facts.digest, facts.hashes)
            kept.flush()
            for facts, coco in batch:
                hashes = facts.hashes or (None if facts.problem else kept.stored(facts.digest))
                yield replace(facts, hashes=hashes and replace(hashes, coco=coco))


# Pairs.


def _pair_rows(rule: NamedRule, rows: Sequence[Row]) -> tuple[list[Preference], PairCounts]:
    counts = PairCounts()
    return list(pair_up(rows, rule, counts)), counts


def pairs_by_ray(rows: Iterable[Row], rule: NamedRule, counts: PairCounts, *, workers: int) -> Iterator[Preference]:
    """`pair_rules.pair_up`: the same pairs in the same order; `counts` is complete when the last one was taken."""
    if rule.balance_yes_no:
        unbalanced = rule.replace(balance_yes_no=False)
        yield from balanced(list(pairs_by_ray(rows, unbalanced, counts, workers=workers)), counts)
        return
    make = partial(partial, _pair_rows, rule)
    for pairs, found in in_order(Branch(name="pairs", make=make, items=batches(rows, ROWS), workers=workers)):
        counts.add(found)
        yield from pairs
