"""`harness vlfeedback build` and `push`: a dataset from instructions to the hub."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.missing import tell_forecast
from harness.cli.next_steps import after_build
from harness.cli.options import JUDGE, DryRun, Json, JudgeOptions, MaxFailed, Seed, say
from harness.cli.outputs import needs_of_output
from harness.cli.setting_options import OptionGroup, check_at_least, with_settings
from harness.cli.shown import show
from harness.datasets.build import PoolSettings, data_of
from support.errors import LOSSY, OK, Need, exit_code_of

if TYPE_CHECKING:
    from harness.evaluation.preflight import Readiness
    from tasks.judges.protocol import Judge
    from trainers.config.data import Data

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """What is built; options replace values of the recipe's [data]."""

    recipe: str | None = None
    """A recipe whose table `data` is built; the options below replace its values."""
    source: tuple[str, ...] = ()
    """Source of instructions: scenes, a declared source, a path, hub:OWNER/NAME; with =WEIGHT; repeatable."""
    pool: tuple[str, ...] = ()
    """Models that answer: scenes, paper, or MODEL[@TEMPERATURE][=SERVER_URL]; repeatable."""
    thinking: tuple[str, ...] = ()
    """Whether the pool's models think first, where their chat template has this switch: on, off, or MEMBER=on|off;
    repeatable."""
    limit: int | None = None
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
        check_at_least("--limit", self.limit, 1)
        check_at_least("--answers", self.answers, 2)

    def resolve(self, judge: str | None) -> "Data":
        """The data to build."""
        values: dict[str, Any] = {"instructions": self.limit, "judge": judge}
        values |= {name: getattr(self, name) for name in ("answers", "rule", "mode", "order")}
        return data_of(
            self.recipe, sources=self.source or None, pool=self.pool or None, thinking=self.thinking, given=values
        )


DATASET = OptionGroup(kind=DatasetOptions, panel="Data", environment=False)
POOL = OptionGroup(kind=PoolSettings, panel="Pool", without=frozenset({"ledger"}), environment=False)


@with_settings(dataset=DATASET, judge=JUDGE.but("repeats", name=None), work=POOL)
def build_command(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder of the dataset and of all intermediate files.")] = Path(
        "runs/vlfeedback"
    ),
    plan: Annotated[
        bool,
        typer.Option(
            "--plan", help="Print rows, memory, time and cost of each model of the pool and of the judge; do nothing."
        ),
    ] = False,
    dry_run: DryRun = False,
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
    judge = replace(judge, name=data.judge)
    judge.check(context)
    needs = needs_of_output("--out", out)
    rater = judge.make(asked=False, lacking=needs)
    if plan or dry_run:
        return _tell_plan(data, seed or 0, out, rater, (work, None if plan else needs), as_json)
    with Stages():
        _look(data, out, rater, work, needs).require()
    rater = judge.ready(rater)
    with Stages():
        made = build(out, data, seed or 0, rater, replace(work, ledger=judge.ledger))
        published = publish(out, data, made, embed_images=embed_images)
    if push is not None:
        from trainers.data.dataset_card import push as upload

        log.info(f"pushed: {upload(published.folder, push, private=True)}")
    show(published.to_markdown(), json=json.dumps(published.to_json()) if as_json else None)
    after_build(published.folder, published.counts["pairs"])
    if made.failed > max_failed * max(1, published.rows * (1 + min(data.answers, len(data.pool)))):
        again = "; the same command asks again" * made.may_pass
        return say(f"{made.failed} answers or ratings failed: {reasons_in_words(made.reasons)}{again}", LOSSY)
    if unread := made.ratings.unread_beyond(max_failed):
        return say(unread, LOSSY)
    return OK


def _look(data: "Data", out: Path, rater: "Judge", work: PoolSettings, needs: list[Need]) -> "Readiness":
    """What is missing, with what `needs` holds already."""
    from harness.datasets.readiness import look_at_building
    from harness.evaluation.eval_settings import EvalSettings
    from harness.evaluation.preflight import look_at_run
    from harness.serving.settings import ServerSettings

    served = work.local_servers or work.slurm is not None
    models, lacking = look_at_building(data, rater, out, served)
    server = ServerSettings(command=work.server, flags=work.server_set) if work.local_servers else None
    return look_at_run((), rater, EvalSettings(), models=models, more=[*needs, *lacking], server=server)


def _tell_plan(
    data: "Data",
    seed: int,
    out: Path,
    rater: "Judge",
    how: "tuple[PoolSettings, list[Need] | None]",
    as_json: bool,
) -> int:
    """Print what --plan says; with a list of what is missing so far, what --dry-run says, which looks for the rest."""
    from harness.datasets.pool import plan_pool
    from harness.datasets.readiness import plan_ratings_of, with_instructions_there
    from harness.evaluation.preflight import Readiness
    from harness.models.readiness import NOTHING
    from harness.runs.forecast import Forecast, with_building
    from tasks.judges.openai import OpenAIJudge

    work, needs = how
    data = with_instructions_there(data)
    ready = Readiness(needs=(), disk=NOTHING) if needs is None else _look(data, out, rater, work, needs)
    found = plan_pool(data, seed, data.instructions, out if out.is_dir() else None)
    ratings = plan_ratings_of(rater, data, out) if isinstance(rater, OpenAIJudge) else None
    title = f"build preference data from {', '.join(source.name for source in data.sources) or data.source}"
    empty = Forecast(title=title, steps=[], ready=ready, out=out, seconds=0.0)
    forecast = with_building(empty, found, ratings)
    if as_json:
        print(json.dumps(forecast.to_json() | found.to_json()))
        return exit_code_of(forecast.blocking)
    jobs = "" if work.slurm is None or needs is None else _describe_jobs(data, out, work)
    return tell_forecast(forecast, as_json, "\n".join(filter(None, [found.to_markdown(), jobs])))


def _describe_jobs(data: "Data", out: Path, work: PoolSettings) -> str:
    """The jobs of --slurm."""
    from harness.serving.pool_servers import plan_of, servers_of
    from harness.serving.settings import ServerSettings
    from trainers.cluster.slurm import resources

    settings = ServerSettings(command=work.server, flags=work.server_set)
    servers = servers_of(data.pool, settings, remote_code=work.trust_remote_code)
    return plan_of(servers, out / "servers", resources(work.slurm or []))


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
