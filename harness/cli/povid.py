"""Commands under `harness povid`: dispreferred answers of injected hallucinations, and noised pictures."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.options import (
    LEDGER,
    Json,
    JudgeBatch,
    JudgeBudget,
    JudgeSet,
    JudgeUrl,
    LedgerPath,
    Seed,
    judge_of,
    say,
    tell,
)
from support.errors import LOSSY, OK, UsageError

if TYPE_CHECKING:
    from trainers.povid.inject import Correct

povid_app = typer.Typer(
    no_args_is_help=True, help="POVID's dispreferred answers: injected hallucinations, noised pictures."
)


@povid_app.command("inject")
def inject_command(
    source: Annotated[str, typer.Argument(help="Correct answers: a JSON file of LLaVA-Instruct's form, or `scenes`.")],
    out: Annotated[
        Path, typer.Option(help="Folder for injected.jsonl (what was changed), povid.json and pairs.jsonl.")
    ],
    images: Annotated[Path | None, typer.Option(help="Folder or zip of the file's pictures.")] = None,
    kind: Annotated[str, typer.Option(help="What the file holds: caption, question or reasoning.")] = "caption",
    rows: Annotated[int | None, typer.Option(min=1, help="At most so many answers.")] = None,
    every: Annotated[
        bool, typer.Option("--every", help="Each kind of hallucination for each answer, not one drawn by the seed.")
    ] = False,
    judge: Annotated[
        str, typer.Option(help="Who rewrites: exact (scenes only), or a model of an OpenAI-compatible server.")
    ] = "exact",
    judge_url: JudgeUrl = None,
    ledger: LedgerPath = LEDGER,
    judge_budget: JudgeBudget = None,
    judge_batch: JudgeBatch = False,
    judge_set: JudgeSet = None,
    seed: Seed = None,
    as_json: Json = False,
) -> int:
    """Have correct answers rewritten with one plausible hallucination each; goes on where it was left."""
    from itertools import islice
    from typing import get_args

    from support.console import Stages
    from support.files import JsonLines
    from trainers.data.pair_formats import write_pairs
    from trainers.povid.inject import InjectCounts, Kind, inject, injected, read_llava
    from trainers.povid.scenes import ExactInjector, scenes_items

    if kind not in get_args(Kind):
        raise UsageError(f"--kind {kind!r}: known: {', '.join(get_args(Kind))}")
    if source != "scenes" and images is None:
        raise UsageError(f"{source}: name the folder or zip of its pictures by --images")
    skipped: Counter[str] = Counter()

    def items() -> "Iterator[Correct]":
        if source == "scenes":
            return scenes_items(rows or 500, seed or 0)
        assert images is not None
        skipped.clear()
        return islice(read_llava(Path(source), images, kind=kind, skipped=skipped), rows)  # type: ignore[arg-type]

    rewriter: Any = (
        ExactInjector()
        if judge == "exact"
        else judge_of(judge, judge_url, ledger, judge_budget, batch=judge_batch, given=judge_set)
    )
    found, counts = JsonLines(out / "injected.jsonl"), InjectCounts()
    done = 0
    with Stages() as stages:

        def more(count: int) -> None:
            nonlocal done
            done += count
            stages.report("rewrite", done, rows or 0)

        failed = inject(items(), rewriter, found, seed=seed or 0, every=every, done=more, counts=counts)
    pairs = list(injected(items(), found, seed=seed or 0, every=every))
    write_pairs(pairs, out / "povid.json", form="povid")
    write_pairs(pairs, out / "pairs.jsonl")
    refused = ", ".join(f"{count} x {why}" for why, count in counts.refused.items())
    if refused:
        tell(f"no rewrite could be used: {refused}")
    if skipped:
        tell("left out: " + ", ".join(f"{count} x {why}" for why, count in skipped.items()))
    files = [out / "povid.json", out / "pairs.jsonl"]
    if as_json:
        print(
            json.dumps(
                {"pairs": len(pairs), "skipped": skipped, **vars(counts), "files": [str(file) for file in files]}
            )
        )
    else:
        print(f"{len(pairs)} pairs in {' and '.join(map(str, files))}; what was changed: {out / 'injected.jsonl'}")
    return OK if not failed else say(f"{failed} rewrites failed; the same command asks again", LOSSY)


@povid_app.command("noise")
def noise_command(
    image: Annotated[Path, typer.Argument(help="A picture.")],
    out: Annotated[Path, typer.Argument(help="Where the noised one goes, as PNG.")],
    step: Annotated[int, typer.Option(help="Of the diffusion schedule, 0 to 999.")] = 500,
    overflow: Annotated[str, typer.Option(help="clamp, or wrap as in POVID's release.")] = "clamp",
    size: Annotated[int | None, typer.Option(min=8, help="Also resize the picture to so many pixels a side.")] = None,
    place: Annotated[str, typer.Option(help="Noise before the resize, as in POVID's release, or after.")] = "before",
    seed: Seed = None,
) -> int:
    """Show what a picture looks like after so many steps of noise."""
    from typing import get_args

    from PIL import Image

    from support.images import decode
    from trainers.losses.noise import Place, abar, noised

    if place not in get_args(Place):
        raise UsageError(f"--place {place!r}: known: {', '.join(get_args(Place))}")
    try:
        made = decode(image.read_bytes()).convert("RGB")
    except OSError as error:
        raise UsageError(f"{image}: no picture: {error.strerror or error}") from None

    def under_noise(picture: Image.Image) -> Image.Image:
        return noised(picture, seed=seed or 0, step=step, overflow=overflow)  # type: ignore[arg-type]

    if place == "before":
        made = under_noise(made)
    if size is not None:
        made = made.resize((size, size), Image.Resampling.BICUBIC)
    if place == "after":
        made = under_noise(made)
    made.save(out, "PNG")
    tell(f"{out}: signal {abar()[step] ** 0.5:.3f}, noise {(1 - abar()[step]) ** 0.5:.3f}")
    return OK
