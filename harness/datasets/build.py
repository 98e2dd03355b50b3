"""A dataset of one's own: what the user asked for as a recipe's [data], built, and laid out for others.

    data = data_of(None, sources=["scenes"], pool=["scenes"], given={"instructions": 500, "judge": "scenes"})
    made = build(out, data, 0, judge, PoolSettings())
    publish(out, data, made)                  # out/dataset: README.md, rows.parquet, pairs.parquet, report.md

Stages that are finished are skipped, so the same command finishes a build that was killed.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from support.errors import DataError, InputError, RecipeError, SettingError, UsageError, did_you_mean
from support.files import atomic_write_text
from support.judge_names import current_judge
from support.parsing import parse_json
from tasks.judges.protocol import Judge
from tasks.judges.reasons import Reason
from trainers.config.data import POOLS, Data, PairOptions, PoolModel
from trainers.config.recipe import find_recipe, first_problem
from trainers.vlfeedback.build import BuiltDataset, build_dataset

INSTRUCTIONS = 500
"""Instructions of a build that names no number."""

_MEMBER = re.compile(r"(?P<model>[^@=]+)(?:@(?P<temperature>\d+(?:\.\d+)?))?(?:=(?P<url>https?://\S+))?")


@dataclass(frozen=True, kw_only=True)
class PoolSettings:
    """Where the pool's models run."""

    ledger: Path | None = None
    """Keeps what servers said; None: the usual file."""
    ray: str | None = None
    """Decode by Ray actors: "local", or the address of a cluster."""
    workers: int = 2
    """Actors a member, with `ray`."""
    slurm: Sequence[str] | None = None
    """NAME=VALUE of sbatch: serve every model on a node of its own first."""
    local_servers: bool = False
    """Serve every model as a process of this machine first."""
    server: str = "vllm"
    """Command of these servers."""
    server_set: Mapping[str, str] = field(default_factory=dict)
    """NAME=VALUE: any flag of these servers; repeatable."""
    trust_remote_code: bool = False
    """Run Python code that comes with the pool's models."""

    def __post_init__(self) -> None:
        if self.slurm is not None and self.local_servers:
            raise SettingError("--slurm and --local-servers: models are served on nodes or on this machine; choose one")
        if self.server != "vllm" and self.slurm is None and not self.local_servers:
            raise SettingError(f"--server {self.server!r}: is for --slurm or --local-servers, and neither is given")
        if self.server_set and self.slurm is None and not self.local_servers:
            raise SettingError("--server-set: is for --slurm or --local-servers, and neither is given")


def data_of(
    recipe: str | None,
    *,
    sources: Sequence[str] | None = None,
    pool: Sequence[str] | None = None,
    thinking: Sequence[str] = (),
    given: Mapping[str, Any] | None = None,
) -> Data:
    """The [data] of a recipe, or of none, with `given` in place of its values (None: as it was); `thinking` has on or
    off for all members of the pool, or MEMBER=on for one. UsageError or RecipeError name what is wrong."""
    values: dict[str, Any] = {}
    if recipe is not None:
        found = find_recipe(recipe).data
        if found is None:
            raise RecipeError(f"recipe {recipe!r} has no [data] to build")
        values = found.model_dump(exclude_defaults=True)
    elif pool is None:
        raise UsageError("name a --recipe, or a --pool that answers: scenes, paper, or models")
    else:
        values["instructions"] = INSTRUCTIONS
    if sources is not None:
        values.pop("source", None)
        values["sources"] = [] if list(sources) == ["scenes"] else [_parse_source(text) for text in sources]
    if pool is not None:
        values["pool"] = pool[0] if len(pool) == 1 and pool[0] in POOLS else [_parse_member(text) for text in pool]
    values |= {name: value for name, value in (given or {}).items() if value is not None}
    try:
        data = Data.model_validate(values)
        if not thinking:
            return data
        return Data.model_validate(values | {"pool": _switch_thinking(data.pool, thinking)})
    except ValidationError as error:
        raise RecipeError(first_problem(error, Data)) from None


def _switch_thinking(pool: Sequence[PoolModel], given: Sequence[str]) -> list[dict[str, Any]]:
    """The members with this switch: of all by on or off, of those of a name or a model by NAME=on."""
    members = [member.model_dump(exclude_defaults=True) for member in pool]
    for text in sorted(given, key=lambda text: "=" in text):  # one member's own comes last
        name, _, value = text.rpartition("=")
        if value not in ("on", "off"):
            raise UsageError(f"--thinking {text!r}: must be on, off, MEMBER=on or MEMBER=off")
        chosen = [number for number, member in enumerate(pool) if name in ("", member.name, member.model)]
        if not chosen:
            known = did_you_mean(name, [member.name for member in pool])
            raise UsageError(f"--thinking {text!r}: no member {name!r} in the pool{known}")
        for number in chosen:
            members[number]["thinking"] = value
    return members


def _parse_source(text: str) -> dict[str, Any]:
    name, equals, weight = text.rpartition("=")
    if not equals:
        return {"name": text}
    try:
        return {"name": name, "weight": float(weight)}
    except ValueError:
        raise UsageError(f"--source {text!r}: must be SOURCE, or SOURCE=WEIGHT") from None


def _parse_member(text: str) -> dict[str, Any]:
    match = _MEMBER.fullmatch(text)
    if match is None:
        raise UsageError(f"--pool {text!r}: must be {', '.join(POOLS)}, or MODEL[@TEMPERATURE][=SERVER_URL]")
    return {name: value for name, value in match.groupdict().items() if value is not None}


def build(out: Path, data: Data, seed: int, judge: Judge, settings: PoolSettings) -> BuiltDataset:
    """Build, or finish, the dataset of `data` in `out`."""
    from harness.datasets.pool import PoolModels, check_thinking, load_served
    from harness.models.served_identity import end_run

    check_thinking(data.pool, remote_code=settings.trust_remote_code)
    _claim(out, data, seed)
    run = f"answers in {out.resolve()}"
    with ExitStack() as stack:
        served = {}
        if settings.slurm is not None or settings.local_servers:
            from harness.serving.pool_servers import serve_pool
            from harness.serving.settings import ServerSettings
            from trainers.cluster.slurm import resources

            started = serve_pool(
                data.pool,
                out / "servers",
                wanted=resources(settings.slurm or ["gpus=0"]),
                cluster="slurm" if settings.slurm is not None else "local",
                settings=ServerSettings(command=settings.server, flags=settings.server_set),
                remote_code=settings.trust_remote_code,
            )
            served = stack.enter_context(started)
        if settings.ray is None:
            pool = PoolModels(ledger=settings.ledger, served=served, run=run, remote_code=settings.trust_remote_code)
            stack.callback(pool.drop)
            built = build_dataset(out, data, seed, judge, pool)
            end_run(settings.ledger, run)
            return built
        from trainers.vlfeedback.ray_stages import cluster, decode_by_ray

        stack.enter_context(cluster(None if settings.ray == "local" else settings.ray))
        given: dict[str, Any] = {"run": run, "remote_code": settings.trust_remote_code}
        load = partial(load_served, served, ledger=settings.ledger, **given)
        built = build_dataset(out, data, seed, judge, load, decode=partial(decode_by_ray, workers=settings.workers))
        end_run(settings.ledger, run)
        return built


def _claim(out: Path, data: Data, seed: int) -> None:
    """A folder belongs to one [data] and seed; only the rule of pairs may change, for answers and ratings stay
    valid."""
    path = out / "build.json"
    claim: dict[str, Any] = {"seed": seed, **data.model_dump(mode="json", exclude=set(PairOptions.model_fields))}
    for member in claim["pool"]:
        del member["url"]  # where a server is does not count
    if path.exists() and (out / "instructions.jsonl").exists():  # before, there is nothing that another one could spoil
        try:
            held = dict(parse_json(path.read_text(encoding="utf-8")))
            held["judge"] = current_judge(held.get("judge"))
        except (ValueError, TypeError):
            raise UsageError(f"{path}: can't be read; choose another --out or remove it") from None
        if differing := [name for name in claim if held.get(name) != claim[name]]:
            raise UsageError(
                f"{out} holds a dataset built with other {', '.join(differing)}; choose another --out, or remove it"
            )
    else:
        atomic_write_text(path, json.dumps(claim, indent=1))


@dataclass(frozen=True, kw_only=True)
class Published:
    """A finished dataset, laid out."""

    folder: Path
    rows: int
    counts: dict[str, int]
    failed: int
    reasons: Sequence[Reason]
    """Why answers and ratings failed."""
    table: str

    def to_json(self) -> dict[str, Any]:
        """Folder and counts."""
        reasons = [asdict(reason) for reason in self.reasons]
        return {"folder": str(self.folder), "rows": self.rows, "failed": self.failed, "reasons": reasons, **self.counts}

    def to_markdown(self) -> str:
        """The table of counts, and where everything is."""
        pairs, report = self.counts["pairs"], self.folder / "report.md"
        return f"{self.table}\n\n{self.rows} rows and {pairs} pairs in {self.folder}; report: {report}"


def publish(out: Path, data: Data, made: BuiltDataset, *, embed_images: bool = True) -> Published:
    """Lay a dataset out in `out`/dataset: its card, rows in VLFeedback's schema, pairs in TRL's columns, statistics
    with pictures."""
    from support.markdown import table
    from trainers.data.dataset_card import dataset_card
    from trainers.data.pair_formats import write_pairs
    from trainers.data.pair_rules import rule_of, settle
    from trainers.data.statistics import gather
    from trainers.data.statistics_report import report
    from trainers.data.statistics_tables import tables_of
    from trainers.data.vlfeedback_format import read_rows, write_rows
    from trainers.vlfeedback.sources import declared

    folder = out / "dataset"
    folder.mkdir(parents=True, exist_ok=True)

    def rows() -> Iterator[Any]:
        return read_rows(out / "vlfeedback.jsonl", out / "images")

    count = write_rows(rows(), folder / "rows.parquet", embed_images=embed_images)
    write_pairs(made.pairs, folder / "pairs.parquet", embed_images=embed_images)
    rule, read = settle(rule_of(data), rows())
    statistics = gather(read, [rule])
    report(statistics, folder)
    names = {source.name for source in data.sources} or {data.source}
    licences = {name: declared()[name].licence for name in sorted(names) if name in declared()}
    card = dataset_card(
        tables_of(statistics),
        name=out.name,
        rows=count,
        pairs=len(made.pairs),
        files={"rows": "rows.parquet", "pairs": "pairs.parquet"},
        judge=data.judge,
        licence="apache-2.0" if names == {"scenes"} else "other",
        sources=licences,
    )
    atomic_write_text(folder / "README.md", card)
    shown = {name: value for name, value in asdict(made.counts).items() if name != "rows"}
    listed = table(["what", "how many"], [[name.replace("_", " "), str(value)] for name, value in shown.items()])
    counts = made.counts.to_json() | {"rows": count}
    lost: dict[str, Any] = {"failed": made.failed, "reasons": made.reasons}
    return Published(folder=folder, rows=count, counts=counts, table=listed, **lost)


def write_card(folder: Path, repository: str) -> Path:
    """The README.md of a folder that holds rated rows, pairs, or both; InputError where it holds neither."""
    from support.records import suffix
    from trainers.data.dataset_card import dataset_card
    from trainers.data.pair_formats import read_pairs
    from trainers.data.statistics import gather
    from trainers.data.statistics_tables import tables_of
    from trainers.data.vlfeedback_format import holds_rows, read_rows

    def holds_pairs(path: Path) -> bool:
        try:
            return next(read_pairs(path), None) is not None
        except DataError:
            return False

    tables = [path for path in sorted(folder.iterdir()) if path.is_file() and suffix(path)] if folder.is_dir() else []
    rows = [path for path in tables if holds_rows(path)]
    pairs = [path for path in tables if path not in rows and holds_pairs(path)]
    if not rows and not pairs:
        raise InputError(f"{folder}: holds neither rated answers nor pairs to push")
    statistics = gather(row for path in rows for row in read_rows(path))
    count = sum(1 for path in pairs for _ in read_pairs(path))
    files = {name: [path.name for path in found] for name, found in (("rows", rows), ("pairs", pairs)) if found}
    name = repository.rpartition("/")[2]
    tables_text = tables_of(statistics) if rows else ""
    text = dataset_card(tables_text, name=name, rows=statistics.rows, pairs=count, files=files)
    atomic_write_text(folder / "README.md", text)
    return folder / "README.md"
