"""`harness judge bench`: how good a judge is, or a trained model's reward."""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from harness.cli.missing import collect, tell_forecast
from harness.cli.next_steps import after_bench
from harness.cli.options import (
    DATA,
    JUDGE,
    DataOptions,
    DryRun,
    Json,
    JudgeOptions,
    Limit,
    MaxFailed,
    Seed,
    check_data,
    say,
    split_names,
)
from harness.cli.outputs import needs_of_output
from harness.cli.setting_options import refuse_given, with_settings
from harness.cli.shown import show
from support.errors import LOSSY, OK, Need, SettingError, UsageError
from support.judge_names import SCENES as SCENES_JUDGE

if TYPE_CHECKING:
    from harness.evaluation.preflight import Readiness
    from harness.judge_bench.results import Result
    from harness.models.spec import ModelSpec
    from harness.runs.forecast import Forecast
    from tasks.pairs.protocol import Pair, PairBench

log = logging.getLogger(__name__)

SCENES: Final = "scenes"
_OF_JUDGES: Final = ("samples", "seed", "official_prompts", "ledger")
_OF_MODELS: Final = ("reference", "batch_size")


@with_settings(judge=JUDGE.but("name", "repeats"), data=DATA)
def bench_command(
    context: typer.Context,
    judge_name: Annotated[
        str | None, typer.Argument(metavar="[JUDGE]", help="scenes (scene graphs), or a model of such a server.")
    ] = None,
    bench: Annotated[
        list[str] | None, typer.Option(help="scenes, vl_rewardbench, multimodal_rewardbench, by commas; repeatable.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="In place of a judge: a trained model, whose implicit DPO reward is scored.")
    ] = None,
    reference: Annotated[
        str, typer.Option(help="What the reward is relative to: base (what the model was trained from), or a model.")
    ] = "base",
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs that the model reads at once.")] = 4,
    samples: Annotated[
        int, typer.Option(min=1, help="Verdicts of each pair, of which the majority counts (VL-RewardBench's K).")
    ] = 1,
    official_prompts: Annotated[
        bool, typer.Option("--official-prompts", help="Ask in the benchmark authors' own words, fetched once.")
    ] = False,
    limit: Limit = None,
    seed: Seed = None,
    out: Annotated[Path, typer.Option(help="Folder that keeps the results.")] = Path("runs/judge-bench"),
    read: Annotated[Path | None, typer.Option(help="Print a result that was kept; nothing is asked.")] = None,
    dry_run: DryRun = False,
    max_failed: MaxFailed = 0.05,
    as_json: Json = False,
    *,
    judge: JudgeOptions,
    data: DataOptions,
) -> int:
    """Measure how good a judge is: its choices between two answers against people's.

    VL-RewardBench and Multimodal RewardBench by their official rules, or the scenes world's pairs, which need no data.
    With --model no judge is asked: a pair is right if the chosen answer has the higher implicit DPO reward.
    """
    from harness.judge_bench.benches import bench_of

    if read is not None:
        return _end([_read_kept(read)], max_failed, as_json)
    check_data(data.paths, benches := [bench_of(name) for name in split_names(bench or [SCENES])])
    asked = replace(judge, name=judge_name)
    _check_options(context, asked, model, benches, samples, official_prompts)
    needs = needs_of_output("--out", out)
    pairs = _read_pairs(benches, data, limit, seed or 0, needs)
    facts = _facts_of_limit(limit, seed or 0)
    words = {"samples": samples, "seed": seed or 0, "official_prompts": official_prompts}
    specs = None if model is None else _find_models(model, reference)
    rater: Any = None if specs is not None else asked.make(asked=False, lacking=needs)
    ready = _look(specs or (), rater, needs)
    if dry_run:
        told = _forecast_asking(rater, pairs, words, ready) if specs is None else _forecast_reading(specs, pairs, ready)
        return tell_forecast(replace(told, out=out), as_json)
    ready.require()
    if specs is not None:
        return _end(_score_reward(specs, pairs, batch_size, facts, out), max_failed, as_json, out)
    return _end(_ask_each(asked.ready(rater), pairs, words, facts), max_failed, as_json, out, asked.name or SCENES)


def _facts_of_limit(limit: int | None, seed: int) -> dict[str, str]:
    from tasks.draw import DRAWN

    return {} if limit is None else {"limit": str(limit), DRAWN: f"evenly by category, seed {seed}"}


def _draw(bench: "PairBench", pairs: "list[Pair]", limit: int | None, seed: int) -> "list[Pair]":
    """At most `limit` pairs, evenly from the benchmark's categories."""
    from tasks.draw import draw_evenly

    ids = [(pair.id,) for pair in pairs]
    if limit is None or limit >= len(pairs):
        return pairs
    places = draw_evenly([(pair.category,) for pair in pairs], ids, ids, limit, f"{bench.name}/{seed}")
    return [pairs[place] for place in places]


def _read_pairs(
    benches: "Sequence[PairBench]", data: DataOptions, limit: int | None, seed: int, lacking: list[Need]
) -> "list[tuple[PairBench, Sequence[Pair]]]":
    """The pairs to be judged; `lacking` gets the benches whose data can't be read."""
    read = {one.name: collect(lacking, partial(one.read, data.paths, data.partial)) for one in benches}
    return [(one, _draw(one, own, limit, seed)) for one in benches if (own := read[one.name]) is not None]


def _read_kept(file: Path) -> "Result":
    from harness.judge_bench.results import Result

    return Result.read(file)


def _check_options(
    context: typer.Context,
    options: JudgeOptions,
    model: str | None,
    benches: "Sequence[PairBench]",
    samples: int,
    official_prompts: bool,
) -> None:
    judge = options.name
    if (judge is None) == (model is None):
        raise UsageError("name either a judge or, by --model, a trained model")
    if model is not None:
        refuse_given(context, _OF_JUDGES, "with --model no judge is asked")
        options.check(context)
        return
    refuse_given(context, _OF_MODELS, "it is of --model")
    if judge == SCENES_JUDGE:
        if others := [one.name for one in benches if one.name != SCENES]:
            raise SettingError(f"judge {judge!r}: knows rendered scenes only, not {', '.join(others)}; name a model")
        if official_prompts:
            raise SettingError(f"judge {judge!r}: reads our own prompts only; leave out --official-prompts")
    if samples > 1 and (once := [one.name for one in benches if not one.votes]):
        raise SettingError(f"--samples {samples}: {', '.join(once)} asks once by its official rule")
    options.check(context)


def _ask_each(
    rater: Any, pairs: "Sequence[tuple[PairBench, Sequence[Pair]]]", words: dict[str, Any], facts: dict[str, str]
) -> "list[Result]":
    return [_ask(rater, bench, own, words, facts) for bench, own in pairs]


def _ask(
    rater: Any, bench: "PairBench", pairs: "Sequence[Pair]", words: dict[str, Any], facts: dict[str, str]
) -> "Result":
    from harness.judge_bench.ask import ask_judge
    from harness.judge_bench.results import Result
    from support.stages import Stages
    from tasks.judges.ledger import now
    from tasks.pairs.protocol import digest_of

    with Stages():
        compared = ask_judge(bench, pairs, rater, **words)
    client = getattr(rater, "client", None)
    settings = {"prompts": "the authors'" if words["official_prompts"] else "ours", "pairs": digest_of(pairs), **facts}
    settings |= {"samples": str(words["samples"]), "seed": str(words["seed"])}
    if client is not None:
        rater.tell_reuse(bench.name)
        known = {"server": client.servers, "served": client.served, "asked otherwise": client.asked_otherwise}
        settings |= {name: ", ".join(sorted(values)) for name, values in known.items() if values}
        settings |= {"images": shown} if (shown := rater.settings.images_in_words()) else {}
        settings |= {"structured": "true"} if rater.settings.structured else {}
        settings |= {"asked for": given} if (given := rater.settings.in_words()) else {}
    return Result(bench=bench.name, judge=rater.model, settings=settings, created=now(), compared=tuple(compared))


def _look(models: "Sequence[ModelSpec]", judge: Any, needs: list[Need]) -> "Readiness":
    """What is missing beside the benches' data."""
    from harness.evaluation.eval_settings import EvalSettings
    from harness.evaluation.preflight import look_at_run

    return look_at_run((), judge, EvalSettings(), models=models, more=needs)


def _forecast_asking(
    rater: Any, pairs: "Sequence[tuple[PairBench, Sequence[Pair]]]", words: dict[str, Any], ready: "Readiness"
) -> "Forecast":
    """What --dry-run says of a judge."""
    from harness.evaluation.judge_cost import Counting, planned
    from harness.judge_bench.ask import ask_judge
    from harness.runs.forecast import forecast_of_judging
    from tasks.judges.openai import OpenAIJudge

    plans = []
    for bench, own in pairs if isinstance(rater, OpenAIJudge) else ():
        counting = Counting(rater)
        ask_judge(bench, own, counting, **words)
        plans.append(planned(counting, bench.name))
    steps = [f"{bench.name}: {len(own)} pairs" for bench, own in pairs]
    return forecast_of_judging(f"how good {rater.model} is", steps, plans, ready)


def _find_models(model: str, reference: str) -> "tuple[ModelSpec, ModelSpec]":
    """The model whose reward is scored, and what it is relative to."""
    from harness.judge_bench.implicit_reward import reference_of
    from harness.models.spec import find

    policy = find(model)
    both = policy, reference_of(policy, reference)
    for spec in both:
        if spec.backend != "transformers":
            raise SettingError(f"{spec.name}: a reward needs the probabilities of given answers, which no server gives")
    return both


def _forecast_reading(
    specs: "tuple[ModelSpec, ModelSpec]", pairs: "Sequence[tuple[PairBench, Sequence[Pair]]]", ready: "Readiness"
) -> "Forecast":
    """What --dry-run says of a reward."""
    from harness.runs.forecast import Forecast

    readers = " and ".join(spec.name for spec in specs)
    steps = [f"{bench.name}: {len(own)} pairs, read by {readers}; nothing is generated" for bench, own in pairs]
    return Forecast(title="implicit DPO rewards", steps=steps, ready=ready)


def _score_reward(
    specs: "tuple[ModelSpec, ModelSpec]",
    pairs: "Sequence[tuple[PairBench, Sequence[Pair]]]",
    batch_size: int,
    facts: dict[str, str],
    out: Path,
) -> "list[Result]":
    from harness.judge_bench.implicit_reward import score_pairs
    from harness.judge_bench.results import Result
    from harness.models.fetch import fetch
    from harness.models.provenance import digest_of_model
    from support.stages import Stages
    from tasks.judges.ledger import now
    from tasks.pairs.protocol import digest_of

    policy, reference = map(fetch, specs)
    settings = {"reference": reference.name, "batch size": str(batch_size), **facts}
    for side, spec in (("policy", policy), ("reference", reference)):
        settings |= {f"{side} {name}": value for name, value in digest_of_model(spec).items()}
    results = []
    for bench, own in pairs:
        with Stages():
            compared = score_pairs(own, policy=policy, reference=reference, out=out, batch_size=batch_size)
        named = {"judge": f"reward of {policy.name}", "bench": bench.name, "created": now()}
        own_settings = {**settings, "pairs": digest_of(own)}
        results.append(Result(**named, settings=own_settings, compared=tuple(compared)))
    return results


def _end(
    results: "Sequence[Result]", max_failed: float, as_json: bool, out: Path | None = None, judge: str | None = None
) -> int:
    """Keep and print results; LOSSY if one lost more than this share of its pairs. `judge`: the one that was asked."""
    from tasks.judges.reasons import reasons_in_words

    files = [result.keep(out) for result in results] if out is not None else []
    show(
        [result.table() for result in results],
        json=json.dumps({"results": [result.facts() for result in results], "files": list(map(str, files))})
        if as_json
        else None,
    )
    for file in files:
        log.info(f"kept: {file}")
    after_bench(judge, [result.bench for result in results], files)
    code = OK
    for result in results:
        found = result.figures
        if found.share_lost > max_failed:
            reasons = f": {reasons_in_words(found.reasons)}" if found.reasons else ""
            counts = f"{found.lost} of {found.pairs} pairs without a score, {found.unread} without a verdict"
            code = say(f"{result.bench}: {counts}{reasons}", LOSSY)
    return code
