"""Commands under `harness vlfeedback`: preference data from instructions to pairs, read, written, counted and
checked."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.options import (
    LEDGER,
    DataPaths,
    DryRun,
    Json,
    JudgeBatch,
    JudgeBudget,
    JudgeName,
    JudgeSet,
    JudgeUrl,
    LedgerPath,
    PartialData,
    Seed,
    data_paths,
    judge_of,
    print_plans,
    say,
    tell,
)
from support.errors import LOSSY, OK, UsageError

if TYPE_CHECKING:
    from trainers.data.rows import Preference, Row
    from trainers.data.vlfeedback_format import Seen

vlfeedback_app = typer.Typer(no_args_is_help=True, help="Preference data in VLFeedback's form.")

RatedData = Annotated[
    Path,
    typer.Argument(
        help="Rated answers in VLFeedback's schema (.jsonl, .json, .parquet), a folder with them, or `public`: the hub's."
    ),
]
Images = Annotated[
    Path | None, typer.Option(help="Folder or zip of pictures, where they do not stand beside the data.")
]
RuleName = Annotated[
    str,
    typer.Option("--rule", help="Which answer of two is chosen: authors, margin, largest-gap, dominant, longest, ..."),
]
UseRay = Annotated[
    str | None,
    typer.Option(
        "--ray", help="Work as Ray Data pipelines: `local`, or the address of a cluster that runs (auto, HOST:PORT)."
    ),
]
CopyImages = Annotated[
    bool, typer.Option(help="Copy pictures out of zips and tables beside the file, so that `datasets` opens them.")
]
Workers = Annotated[int, typer.Option(min=1, help="Actors a stage, with --ray.")]

PUBLIC = "public"
"""Stands for the published dataset, fetched from the hub."""


def _rows(data: Path, images: Path | None, seen: "Seen | None" = None) -> "Iterator[Row]":
    from trainers.data.vlfeedback_format import fetch_public, read_rows

    return read_rows(fetch_public() if str(data) == PUBLIC else data, images, seen=seen)


def _not_over(out: Path, data: Path) -> None:
    """UsageError where a command would write over what it reads."""
    from trainers.data.vlfeedback_format import holds_rows

    within = data.is_dir() and out.resolve().parent in (data.resolve(), (data / "data").resolve())
    if out.is_file() and data.exists() and (out.samefile(data) or (within and holds_rows(out))):
        raise UsageError(f"{out}: is among the data that is read; name another file")


@contextmanager
def _ray(address: str | None) -> "Iterator[bool]":
    """Ray for the length of a command, where it was asked for."""
    if address is None:
        yield False
        return
    from trainers.vlfeedback.ray_stages import cluster

    with cluster(None if address == "local" else address):
        yield True


def _listed(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _weights(text: str | None) -> dict[str, float]:
    found = {}
    for part in _listed(text):
        name, _, value = part.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise UsageError(f"--weights {part!r}: must be ASPECT=NUMBER") from None
    return found


@vlfeedback_app.command("pairs")
def pairs_command(
    data: RatedData,
    out: Annotated[Path, typer.Option(help="File to write; its ending (.parquet, .jsonl, .json) says how.")],
    rule: RuleName = "authors",
    images: Images = None,
    min_margin: Annotated[float | None, typer.Option(help="Lowest gap of a pair, in rating points.")] = None,
    min_chosen: Annotated[float | None, typer.Option(help="Lowest score of a chosen answer.")] = None,
    aspects: Annotated[
        str | None, typer.Option(help="The aspects that count, by commas: helpfulness,faithfulness.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="ASPECT=WEIGHT by commas: a weighted mean.")] = None,
    largest_gap: Annotated[
        bool, typer.Option("--largest-gap", help="Of each row only the pairs of its largest gap.")
    ] = False,
    per_prompt: Annotated[
        int | None, typer.Option(help="At most so many pairs a row, those of the largest gap.")
    ] = None,
    max_length_ratio: Annotated[
        float | None, typer.Option(help="The longer answer has at most so many times the other's characters.")
    ] = None,
    strongest: Annotated[
        str | None, typer.Option(help="For rule strongest: the model; default: that of the highest mean.")
    ] = None,
    balance_yes_no: Annotated[bool, typer.Option("--balance-yes-no", help="Choose yes as often as no.")] = False,
    test_share: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of prompts whose pairs go to a second file, NAME-test.")
    ] = 0.0,
    best: Annotated[
        bool, typer.Option("--best", help="The best answer of each row, for SFT, instead of pairs.")
    ] = False,
    form: Annotated[str, typer.Option("--format", help="trl, povid, sharegpt, rlhf-v or rlaif-v.")] = "trl",
    embed_images: Annotated[
        bool, typer.Option("--embed-images", help="Put the pictures into the file, or beside it for JSON.")
    ] = False,
    copy_images: CopyImages = True,
    ray: UseRay = None,
    workers: Workers = 2,
    seed: Seed = None,
    as_json: Json = False,
) -> int:
    """Make preference pairs of rated answers. A split is by prompt: no question is on both sides."""
    from trainers.data.pair_formats import write_pairs
    from trainers.data.pair_rules import PairCounts, best_answers, find_rule, pair_up, settle
    from trainers.data.pair_split import set_aside
    from trainers.data.vlfeedback_format import Seen

    given: dict[str, Any] = {
        "min_margin": min_margin,
        "min_chosen": min_chosen,
        "aspects": _listed(aspects) or None,
        "weights": _weights(weights) or None,
        "largest_gap": largest_gap or None,
        "per_instruction": per_prompt,
        "max_length_ratio": max_length_ratio,
        "strongest": strongest,
        "balance_yes_no": balance_yes_no or None,
    }
    _not_over(out, data)
    seen, counts = Seen(), PairCounts()
    if best and (form != "trl" or test_share):
        raise UsageError("--best writes TRL's prompt and completion columns, without a split")
    named = find_rule(rule, **{name: value for name, value in given.items() if value is not None})
    asked, rows = settle(named, _rows(data, images, seen))
    if best:
        from trainers.data.pair_formats import write_best

        chosen = best_answers(rows, asked, seed or 0)
        written = write_best(chosen, out, embed_images=embed_images, copy_images=copy_images, seen=seen)
        tell(f"{out}: {written} best answers; {seen.summary()}")
        if as_json:
            print(json.dumps({"rows": seen.rows, "answers": written, "files": [str(out)]}))
        return OK
    with _ray(ray) as on_ray:
        if on_ray:
            from trainers.vlfeedback.ray_stages import pairs_by_ray

            made: Iterator[Preference] = pairs_by_ray(rows, asked, counts, workers=workers)
        else:
            made = pair_up(rows, asked, counts)
        held_out: list[Preference] = []
        if test_share:
            made = set_aside(made, test_share, seed or 0, held_out)
        write = partial(write_pairs, form=form, embed_images=embed_images, copy_images=copy_images, seen=seen)
        files = {out: write(made, out)}
    if test_share:
        other = out.with_name(f"{out.stem}-test{out.suffix}")
        files[other] = write(held_out, other)
    for path, count in files.items():
        tell(f"{path}: {count} pairs")
    tell(seen.summary())
    if as_json:
        print(
            json.dumps(
                counts.to_json()
                | {"files": {str(path): count for path, count in files.items()}, "seen": seen.to_json()}
            )
        )
    else:
        from support.markdown import table

        print(
            table(
                ["what", "how many"], [[name.replace("_", " "), str(count)] for name, count in counts.to_json().items()]
            )
        )
    return OK


@vlfeedback_app.command("stats")
def stats_command(
    data: RatedData,
    images: Images = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for report.md and its pictures; default: only the numbers, on screen.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Count rated answers: ratings and models beside the published tables, wins, ties, length bias, what can't be
    used."""
    from trainers.data.statistics import gather
    from trainers.data.statistics_report import report
    from trainers.data.vlfeedback_format import Seen

    seen = Seen()
    found = gather(_rows(data, images, seen))
    if out is not None:
        tell(f"report: {report(found, out, title=data.name)}")
    tell(seen.summary())
    print(json.dumps(found.to_json() | {"seen": seen.to_json()}) if as_json else found.to_markdown())
    return OK


@vlfeedback_app.command("check")
def check_command(data: RatedData, images: Images = None, as_json: Json = False) -> int:
    """Read everything and open every picture: what is broken, missing, or shown under a repeated id. Exit 4 if a
    picture is not there."""
    from dataclasses import asdict

    from trainers.data.vlfeedback_format import Seen, check_images

    seen = Seen()
    found = check_images(_rows(data, images, seen))
    lost = len(found.broken) + len(found.missing)
    if as_json:
        print(json.dumps({"seen": seen.to_json(), "images": asdict(found)}))
    else:
        print(seen.summary())
        print(found.to_markdown())
    return OK if not lost else say(f"{lost} pictures can't be shown", LOSSY)


@vlfeedback_app.command("convert")
def convert_command(
    source: Annotated[
        Path,
        typer.Argument(help="Rated answers in VLFeedback's schema, or pairs in a known format: a file or a folder."),
    ],
    out: Annotated[Path, typer.Argument(help="File to write; its ending says how.")],
    to: Annotated[
        str, typer.Option(help="vlfeedback, or a format of pairs: trl, povid, sharegpt, rlhf-v, rlaif-v.")
    ] = "trl",
    form: Annotated[
        str | None, typer.Option("--from", help="The source's format, where its columns don't tell.")
    ] = None,
    images: Images = None,
    embed_images: Annotated[
        bool, typer.Option("--embed-images", help="Put the pictures into the file, or beside it for JSON.")
    ] = False,
    copy_images: CopyImages = True,
) -> int:
    """Rewrite rated answers as jsonl or parquet, or pairs in another format."""
    from trainers.data.pair_formats import SeenPairs, read_pairs, write_pairs
    from trainers.data.vlfeedback_format import Seen, write_rows

    _not_over(out, source)
    if to == "vlfeedback":
        seen = Seen()
        count = write_rows(_rows(source, images, seen), out, embed_images=embed_images, seen=seen)
        tell(f"{out}: {count} rows; read {seen.summary()}")
        return OK
    pairs = SeenPairs()
    given = read_pairs(source, images, form, seen=pairs)
    count = write_pairs(given, out, to, embed_images=embed_images, copy_images=copy_images, seen=pairs)
    tell(f"{out}: {count} pairs; read {pairs.summary()}")
    return OK


@vlfeedback_app.command("sources")
def sources_command(as_json: Json = False) -> int:
    """List the sources VLFeedback's instructions are from."""
    from dataclasses import asdict

    from support.markdown import cell, table
    from trainers.vlfeedback.sources import declared

    known = declared().values()
    if as_json:
        print(json.dumps({"sources": [asdict(source) for source in known]}))
        return OK
    rows = [
        [cell(s.name), f"{s.published:,}", cell(s.capability), cell(s.hub or s.site), cell(s.licence), cell(s.needs)]
        for s in known
    ]
    print(
        table(["source", "in VLFeedback", "what it asks", "hub id or site", "licence", "pictures from elsewhere"], rows)
    )
    print("\nA path, hub:OWNER/NAME, a folder of images, or `scenes` is a source too.")
    return OK


@vlfeedback_app.command("annotate")
def annotate_command(
    data: Annotated[
        Path,
        typer.Argument(
            help="A run's data folder (instructions.jsonl, answers/, images/), or rated answers in VLFeedback's schema."
        ),
    ],
    judge: JudgeName = "exact",
    judge_url: JudgeUrl = None,
    ledger: LedgerPath = LEDGER,
    judge_budget: JudgeBudget = None,
    judge_batch: JudgeBatch = False,
    judge_set: JudgeSet = None,
    part: Annotated[
        str | None, typer.Option(help="Rate only a part: a number of instructions, or a share such as 0.1.")
    ] = None,
    mode: Annotated[str, typer.Option(help="joint: all aspects in one call; per-aspect: a call each.")] = "joint",
    order: Annotated[
        str, typer.Option(help="shuffled: the texts' order is drawn by the seed; authors: as they were drawn.")
    ] = "shuffled",
    images: Images = None,
    out: Annotated[Path | None, typer.Option(help="For rated answers: the folder of the new ratings.")] = None,
    seed: Seed = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Have a judge rate answers on helpfulness, visual faithfulness and ethics, or a part of them again; goes on where
    it was left."""
    from harness.datasets.rate import plan_ratings, protocol_of, rate_folder, rate_rows
    from tasks.judges.openai import OpenAIJudge
    from trainers.data.vlfeedback_format import holds_rows

    way = protocol_of(part, mode, order, seed or 0)
    folder = (data / "instructions.jsonl").exists() or (data.is_dir() and not holds_rows(data))
    if not folder and out is None:
        raise UsageError(f"{data} holds rated answers: name the folder of the new ratings by --out")
    rows = partial(_rows, data, images)
    rater = judge_of(judge, judge_url, ledger, judge_budget, batch=judge_batch, given=judge_set)
    if dry_run:
        plans = [plan_ratings(rater, way, data if folder else rows)] if isinstance(rater, OpenAIJudge) else []
        return print_plans(plans, as_json=as_json)
    from support.console import Stages

    with Stages():
        rated = rate_folder(data, rater, way) if folder else rate_rows(rows, rater, way, out or data)
    print(json.dumps(rated.to_json()) if as_json else rated.to_markdown())
    return OK if not rated.failed else say(f"{rated.failed} calls gave no reply; the same command asks again", LOSSY)


@vlfeedback_app.command("leaks")
def leaks_command(
    source: Annotated[
        Path, typer.Argument(help="Rated answers in VLFeedback's schema, `public`, or pairs in a known format.")
    ],
    tasks: Annotated[list[str], typer.Option(help="Tasks or suites; repeat the option or separate by commas.")],
    images: Images = None,
    data: DataPaths = None,
    partial_data: PartialData = False,
    distance: Annotated[int | None, typer.Option(help="Bits in which two pictures that look alike may differ.")] = None,
    drop: Annotated[
        Path | None, typer.Option(help="Write the data here without the rows that show a picture of a task.")
    ] = None,
    fingerprints: Annotated[Path, typer.Option(help="The file that keeps fingerprints of pictures over runs.")] = Path(
        "runs/fingerprints.sqlite"
    ),
    out: Annotated[Path | None, typer.Option(help="Write all leaks as JSON to this file.")] = None,
    ray: UseRay = None,
    workers: Workers = 2,
    as_json: Json = False,
) -> int:
    """Which rows of the training data show, or ask, what a benchmark shows or asks."""
    from harness.datasets.contamination import leaks_of
    from support.files import atomic_write_text
    from tasks.registry import registry
    from trainers.data.contamination import drop as without
    from trainers.data.pair_formats import read_pairs, write_pairs
    from trainers.data.vlfeedback_format import holds_rows, write_rows

    for written in (drop, out):
        if written is not None:
            _not_over(written, source)
    chosen = registry().expand([name for given in tasks for name in given.split(",") if name])
    rated = holds_rows(source) or str(source) == PUBLIC
    if ray is not None:
        from trainers.vlfeedback.ray_stages import hash_by_ray

        pictures = (
            picture
            for row in (_rows(source, images) if rated else read_pairs(source, images))
            for picture in row.images
        )
        with _ray(ray):
            count = sum(1 for _ in hash_by_ray(pictures, fingerprints, workers=workers))
        tell(f"{count} pictures have fingerprints in {fingerprints}")
    from support.console import Stages

    with Stages():
        found = leaks_of(
            _rows(source, images) if rated else read_pairs(source, images),
            chosen,
            data=data_paths(data, [task.name for task in chosen]),
            partial_data=partial_data,
            cache=fingerprints,
            distance=distance,
        )
    if out is not None:
        atomic_write_text(out, json.dumps(found.to_json()))
    if drop is not None:
        kept = (
            write_rows(without(_rows(source, images), found), drop)
            if rated
            else write_pairs(without(read_pairs(source, images), found), drop)
        )
        tell(f"{drop}: {kept} kept, {len(found.dropped)} rows left out")
    print(json.dumps(found.to_json()) if as_json else found.to_markdown())
    return OK


@vlfeedback_app.command("push")
def push_command(
    folder: Annotated[
        Path,
        typer.Argument(
            help="A folder with tables, as `build` leaves in dataset/; it gets a README.md where it has none."
        ),
    ],
    repository: Annotated[str, typer.Argument(help="OWNER/NAME on the hub.")],
    public: Annotated[bool, typer.Option("--public", help="For everybody to see; without, a private dataset.")] = False,
) -> int:
    """Upload a dataset to the hub. HF_TOKEN and HF_ENDPOINT are used."""
    from harness.datasets.build import write_card
    from trainers.data.dataset_card import push

    if not (folder / "README.md").exists():
        tell(f"{write_card(folder, repository)}: written")
    print(push(folder, repository, private=not public))
    return OK


@vlfeedback_app.command("build")
def build_command(
    recipe: Annotated[
        str | None, typer.Option(help="A recipe, whose [data] is built; options below replace its values.")
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="Where instructions come from: scenes, a declared source, a path, hub:OWNER/NAME; with =WEIGHT; repeatable."
        ),
    ] = None,
    pool: Annotated[
        list[str] | None,
        typer.Option(help="Who answers: scenes, paper, or MODEL[@TEMPERATURE][=SERVER_URL]; repeatable."),
    ] = None,
    rows: Annotated[int | None, typer.Option("--rows", min=1, help="Instructions.")] = None,
    answers: Annotated[int | None, typer.Option(min=2, help="Answers an instruction.")] = None,
    rule: Annotated[str | None, typer.Option("--rule", help="Which answer of two is chosen, as for `pairs`.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the dataset and all that leads to it.")] = Path(
        "runs/vlfeedback"
    ),
    judge: Annotated[
        str | None, typer.Option(help="Who rates: exact (scenes only), or a model of an OpenAI-compatible server.")
    ] = None,
    mode: Annotated[str | None, typer.Option(help="joint: all aspects in one call; per-aspect: a call each.")] = None,
    order: Annotated[str | None, typer.Option(help="Of the texts: shuffled by the seed, or authors: as drawn.")] = None,
    judge_url: JudgeUrl = None,
    ledger: LedgerPath = LEDGER,
    judge_budget: JudgeBudget = None,
    judge_batch: JudgeBatch = False,
    judge_set: JudgeSet = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print rows, memory and time for each member of the pool, and do nothing.")
    ] = False,
    ray: UseRay = None,
    workers: Workers = 2,
    slurm: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE of sbatch (partition, gres, time, ...): serve each model on a node of its own."),
    ] = None,
    local_servers: Annotated[
        bool, typer.Option("--local-servers", help="Serve each model as a process of this machine.")
    ] = False,
    server: Annotated[str, typer.Option(help="vllm, sglang, or a command with {model} {host} {port} {name}.")] = "vllm",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --slurm: print the jobs and submit nothing.")
    ] = False,
    push: Annotated[str | None, typer.Option(help="OWNER/NAME: upload the finished dataset, private.")] = None,
    embed_images: Annotated[bool, typer.Option(help="Put the pictures into the dataset's tables.")] = True,
    max_failed: Annotated[
        float, typer.Option(min=0, max=1, help="Exit 4 above this share of answers and ratings that failed.")
    ] = 0.05,
    seed: Seed = None,
    as_json: Json = False,
) -> int:
    """From instructions to preference pairs: sample, answer by a pool, rate, pair up, count. Goes on where it was
    left."""
    from harness.datasets.build import PoolSettings, build, data_of, publish

    given = {"instructions": rows, "answers": answers, "rule": rule, "judge": judge, "mode": mode, "order": order}
    data = data_of(recipe, sources=source, pool=pool, given=given)
    if plan:
        from harness.datasets.pool import plan_pool

        found = plan_pool(data, seed or 0, data.instructions, out if out.is_dir() else None)
        print(json.dumps(found.to_json()) if as_json else found.to_markdown())
        return OK
    if dry_run:
        if slurm is None:
            raise UsageError("--dry-run shows the jobs of --slurm; what a build will take is shown by --plan")
        from harness.serving.pool_servers import plan_of, servers_of
        from harness.serving.settings import ServerSettings
        from trainers.cluster.slurm import resources

        print(plan_of(servers_of(data.pool, ServerSettings(command=server)), out / "servers", resources(slurm)))
        return OK
    rater = judge_of(data.judge, judge_url, ledger, judge_budget, batch=judge_batch, given=judge_set)
    from support.console import Stages

    settings = PoolSettings(
        ledger=ledger, ray=ray, workers=workers, slurm=slurm, local_servers=local_servers, server=server
    )
    with Stages():
        made = build(out, data, seed or 0, rater, settings)
        published = publish(out, data, made, embed_images=embed_images)
    if push is not None:
        from trainers.data.dataset_card import push as upload

        tell(f"pushed: {upload(published.folder, push, private=True)}")
    print(json.dumps(published.to_json()) if as_json else published.to_markdown())
    lost = made.failed / max(1, published.rows * (1 + min(data.answers, len(data.pool))))
    return (
        OK
        if lost <= max_failed
        else say(f"{made.failed} answers or ratings failed; the same command asks again", LOSSY)
    )
