"""`harness vlfeedback build` and `push`: a dataset from instructions to the hub."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.options import JUDGE, Json, JudgeOptions, MaxFailed, Seed, say
from harness.cli.setting_options import OptionGroup, check_at_least, with_settings
from harness.cli.shown import show
from harness.datasets.build import PoolSettings, data_of
from support.errors import LOSSY, OK, UsageError

if TYPE_CHECKING:
    from trainers.config.data import Data

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """What is built; options replace values of the recipe's [data]."""

    recipe: str | None = None
    """A recipe whose [data] is built; the options below replace its values."""
    source: tuple[str, ...] = ()
    """Source of instructions: scenes, a declared source, a path, hub:OWNER/NAME; with =WEIGHT; repeatable."""
    pool: tuple[str, ...] = ()
    """Models that answer: scenes, paper, or MODEL[@TEMPERATURE][=SERVER_URL]; repeatable."""
    rows: int | None = None
    """Number of instructions."""
    answers: int | None = None
    """Number of answers for each instruction."""
    rule: str | None = None
    """Which answer of two is chosen, as for `pairs`."""
    mode: str | None = None
    """joint: all aspects in one call; per-aspect: one call each."""
    order: str | None = None
    """Order of the texts: shuffled by the seed; authors: as they were drawn."""

    def __post_init__(self) -> None:
        check_at_least("--rows", self.rows, 1)
        check_at_least("--answers", self.answers, 2)

    def resolve(self, judge: str | None) -> "Data":
        """The data to build."""
        values: dict[str, Any] = {"instructions": self.rows, "judge": judge}
        values |= {name: getattr(self, name) for name in ("answers", "rule", "mode", "order")}
        return data_of(self.recipe, sources=self.source or None, pool=self.pool or None, given=values)


DATASET = OptionGroup(kind=DatasetOptions, panel="Data", environment=False)
POOL = OptionGroup(kind=PoolSettings, panel="Pool", without=frozenset({"ledger"}), environment=False)


@with_settings(dataset=DATASET, judge=JUDGE.but("repeats", name=None), work=POOL)
def build_command(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder of the dataset and of all intermediate files.")] = Path(
        "runs/vlfeedback"
    ),
    plan: Annotated[
        bool, typer.Option("--plan", help="Print rows, memory and time of each model of the pool, and do nothing.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --slurm: print the jobs, and submit nothing.")
    ] = False,
    push: Annotated[str | None, typer.Option(help="OWNER/NAME: upload the finished dataset, private.")] = None,
    embed_images: Annotated[bool, typer.Option(help="Put the images into the dataset's tables.")] = True,
    max_failed: MaxFailed = 0.05,
    seed: Seed = None,
    as_json: Json = False,
    *,
    dataset: DatasetOptions,
    judge: JudgeOptions,
    work: PoolSettings,
) -> int:
    """Build preference pairs from instructions: sample, answer by a pool, rate, pair, count.

    Continues where it stopped.
    """
    from dataclasses import replace

    from harness.datasets.build import build, publish
    from support.stages import Stages
    from tasks.judges.reasons import reasons_in_words

    data = dataset.resolve(judge.name)
    if plan:
        from harness.datasets.pool import plan_pool

        found = plan_pool(data, seed or 0, data.instructions, out if out.is_dir() else None)
        show(found.to_markdown(), json=json.dumps(found.to_json()) if as_json else None)
        return OK
    if dry_run:
        return _print_jobs(data, out, work)
    judge = replace(judge, name=data.judge)
    judge.check(context)
    with Stages():
        made = build(out, data, seed or 0, judge.make(), replace(work, ledger=judge.ledger))
        published = publish(out, data, made, embed_images=embed_images)
    if push is not None:
        from trainers.data.dataset_card import push as upload

        log.info(f"pushed: {upload(published.folder, push, private=True)}")
    show(published.to_markdown(), json=json.dumps(published.to_json()) if as_json else None)
    if made.failed > max_failed * max(1, published.rows * (1 + min(data.answers, len(data.pool)))):
        again = "; the same command asks again" * made.may_pass
        return say(f"{made.failed} answers or ratings failed: {reasons_in_words(made.reasons)}{again}", LOSSY)
    if unread := made.ratings.unread_beyond(max_failed):
        return say(unread, LOSSY)
    return OK


def _print_jobs(data: "Data", out: Path, work: PoolSettings) -> int:
    if work.slurm is None:
        raise UsageError("--dry-run shows the jobs of --slurm; what a build will take is shown by --plan")
    from harness.serving.pool_servers import plan_of, servers_of
    from harness.serving.settings import ServerSettings
    from trainers.cluster.slurm import resources

    settings = ServerSettings(command=work.server, flags=work.server_set)
    servers = servers_of(data.pool, settings, remote_code=work.trust_remote_code)
    print(plan_of(servers, out / "servers", resources(work.slurm)))
    return OK


def push_command(
    folder: Annotated[
        Path, typer.Argument(help="A folder with tables, as `build` writes dataset/; gets a README.md if it has none.")
    ],
    repository: Annotated[str, typer.Argument(help="OWNER/NAME on the hub.")],
    public: Annotated[bool, typer.Option("--public", help="Make the dataset public; default: private.")] = False,
) -> int:
    """Upload a dataset to the hub. HF_TOKEN and HF_ENDPOINT are used."""
    from harness.datasets.build import write_card
    from trainers.data.dataset_card import push

    if not (folder / "README.md").exists():
        log.info(f"{write_card(folder, repository)}: written")
    print(push(folder, repository, private=not public))
    return OK
