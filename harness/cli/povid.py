"""Commands under `harness povid`: dispreferred answers with injected hallucinations, and noised images."""

import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.missing import collect, tell_forecast
from harness.cli.next_steps import after_injecting
from harness.cli.options import JUDGE, DryRun, Json, JudgeOptions, Seed, say
from harness.cli.outputs import needs_of_output
from harness.cli.setting_options import with_settings
from support.errors import LOSSY, OK, DataError, Need, UsageError
from support.images import shorten
from support.judge_names import SCENES

if TYPE_CHECKING:
    from harness.evaluation.preflight import Readiness
    from trainers.povid.inject import Correct

log = logging.getLogger(__name__)

povid_app = typer.Typer(no_args_is_help=True, help="Make POVID's dispreferred answers and noised images.")


@dataclass(frozen=True, kw_only=True)
class _Answers:
    """Correct answers, which can be read more than once."""

    source: str
    images: Path | None
    kind: str
    limit: int | None
    seed: int
    skipped: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        from typing import get_args

        from trainers.povid.inject import Kind

        if self.kind not in get_args(Kind):
            raise UsageError(f"--kind {self.kind!r}: known: {', '.join(get_args(Kind))}")
        if self.source != "scenes" and self.images is None:
            raise UsageError(f"{self.source}: name the folder or zip of its pictures by --images")

    def read(self) -> "Iterator[Correct]":
        """Read them from the start."""
        from trainers.povid.inject import read_llava
        from trainers.povid.scenes import scenes_items

        if self.images is None:
            return scenes_items(self.limit or 500, self.seed)
        self.skipped.clear()
        kind: Any = self.kind  # checked when this was made
        return islice(read_llava(Path(self.source), self.images, kind=kind, skipped=self.skipped), self.limit)

    def check_pictures(self) -> None:
        """Tell, before a judge is asked, how many pictures are not there; DataError where none is."""
        from support.image_folders import there

        if self.images is None:
            return
        pictures = [item.image for item in self.read()]
        lost = [picture for picture in pictures if not there(picture)]
        if not lost:
            return
        found = f"{self.source}: {len(lost):,} of {len(pictures):,} pictures are not in {self.images}"
        told = f"{found}: the first is {shorten(lost[0].name)!r}: {lost[0].why}"
        if len(lost) == len(pictures):
            raise DataError(f"{told}; name the folder or zip that has them by --images")
        log.warning(told)


@povid_app.command("inject")
@with_settings(judge=JUDGE.but("repeats"))
def inject_command(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="Correct answers: a JSON file in LLaVA-Instruct's form, or `scenes`.")],
    out: Annotated[Path, typer.Option(help="Folder for injected.jsonl (the changes), povid.json and pairs.jsonl.")],
    images: Annotated[Path | None, typer.Option(help="Folder or zip of the file's images.")] = None,
    kind: Annotated[str, typer.Option(help="What the file holds: caption, question or reasoning.")] = "caption",
    limit: Annotated[int | None, typer.Option(min=1, help="Use at most this many answers.")] = None,
    every: Annotated[
        bool, typer.Option("--every", help="Inject each kind of hallucination into each answer, not one at random.")
    ] = False,
    seed: Seed = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    *,
    judge: JudgeOptions,
) -> int:
    """Have correct answers rewritten with one plausible hallucination each.

    Continues where it stopped. The judge rewrites: scenes (scenes only), or a model of an OpenAI-compatible server.
    """
    from support.files import JsonLines
    from support.stages import Stages
    from tasks.judges.reasons import reasons_in_words
    from trainers.data.pair_formats import write_pairs
    from trainers.povid.inject import InjectCounts, inject, injected
    from trainers.povid.scenes import ScenesInjector

    answers = _Answers(source=source, images=images, kind=kind, limit=limit, seed=seed or 0)
    judge.check(context)
    needs = needs_of_output("--out", out)
    collect(needs, answers.check_pictures)
    rewriter: Any = ScenesInjector() if judge.name == SCENES else judge.make(asked=False, lacking=needs)
    if dry_run:
        return _tell_forecast(answers, rewriter, out, needs, every, as_json)
    _look(rewriter, needs).require()
    rewriter = rewriter if judge.name == SCENES else judge.ready(rewriter)
    found, counts = JsonLines(out / "injected.jsonl"), InjectCounts()
    with Stages():
        failed = inject(answers.read(), rewriter, found, seed=answers.seed, every=every, counts=counts)
    pairs = list(injected(answers.read(), found, seed=answers.seed, every=every))
    files = [out / "povid.json", out / "pairs.jsonl"]
    write_pairs(pairs, files[0], form="povid")
    write_pairs(pairs, files[1])
    for what, lost in (("no rewrite could be used", counts.refused), ("left out", answers.skipped)):
        if lost:
            log.info(f"{what}: {', '.join(f'{count} x {why}' for why, count in lost.items())}")
    if as_json:
        result = {"pairs": len(pairs), "skipped": answers.skipped, **counts.to_json(), "files": list(map(str, files))}
        print(json.dumps(result))
    else:
        print(f"{len(pairs)} pairs in {' and '.join(map(str, files))}; what was changed: {out / 'injected.jsonl'}")
    after_injecting(out, len(pairs))
    again = "; the same command asks again" if counts.may_pass else ""
    return say(f"{failed} rewrites failed: {reasons_in_words(counts.reasons)}{again}", LOSSY) if failed else OK


def _look(rewriter: Any, needs: list[Need]) -> "Readiness":
    """What is missing, with what `needs` holds already."""
    from harness.evaluation.eval_settings import EvalSettings
    from harness.evaluation.preflight import look_at_run

    return look_at_run((), rewriter, EvalSettings(), more=needs)


def _tell_forecast(answers: _Answers, rewriter: Any, out: Path, needs: list[Need], every: bool, as_json: bool) -> int:
    """Print what --dry-run says: the first rewrite of each answer, without those that are there."""
    from shutil import copyfile
    from tempfile import TemporaryDirectory

    from harness.evaluation.judge_cost import Counting, planned
    from harness.runs.forecast import forecast_of_judging
    from support.files import JsonLines
    from tasks.judges.openai import OpenAIJudge
    from trainers.povid.inject import TASK, inject

    plans = []
    if isinstance(rewriter, OpenAIJudge) and not any(need for need in needs if not need.is_key):
        counting, there = Counting(rewriter), out / "injected.jsonl"
        with TemporaryDirectory() as nowhere:
            rows = Path(nowhere) / there.name
            if there.exists():
                copyfile(there, rows)
            inject(answers.read(), counting, JsonLines(rows), seed=answers.seed, every=every, tries=1)
        plans = [planned(counting, TASK)]
    name = SCENES if not isinstance(rewriter, OpenAIJudge) else rewriter.model
    title = f"rewrite the answers in {answers.source} by {name}"
    ready = _look(rewriter, needs)
    return tell_forecast(forecast_of_judging(title, (), plans, ready, out=out), as_json)


@povid_app.command("noise")
def noise_command(
    image: Annotated[Path, typer.Argument(help="An image.")],
    out: Annotated[Path, typer.Argument(help="PNG file to write.")],
    step: Annotated[int, typer.Option(help="Step of the diffusion schedule, 0 to 999.")] = 500,
    overflow: Annotated[str, typer.Option(help="Values out of range: clamp, or wrap as in POVID's release.")] = "clamp",
    size: Annotated[int | None, typer.Option(min=8, help="Resize the image to this many pixels a side.")] = None,
    place: Annotated[str, typer.Option(help="Noise before or after the resize; POVID's release: before.")] = "before",
    seed: Seed = None,
) -> int:
    """Write an image after a number of steps of noise."""
    from typing import get_args

    from PIL import Image

    from support.images import ImageRef
    from trainers.losses.noise import Place, abar, noised

    if place not in get_args(Place):
        raise UsageError(f"--place {place!r}: known: {', '.join(get_args(Place))}")
    try:
        made = ImageRef.at(image).open().convert("RGB")
    except OSError as error:
        raise UsageError(f"{image}: no picture: {error.strerror or error}") from None

    def add_noise(picture: Image.Image) -> Image.Image:
        return noised(picture, seed=seed or 0, step=step, overflow=overflow)  # type: ignore[arg-type]

    if place == "before":
        made = add_noise(made)
    if size is not None:
        made = made.resize((size, size), Image.Resampling.BICUBIC)
    if place == "after":
        made = add_noise(made)
    made.save(out, "PNG")
    log.info(f"{out}: signal {abar()[step] ** 0.5:.3f}, noise {(1 - abar()[step]) ** 0.5:.3f}")
    return OK
