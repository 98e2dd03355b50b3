"""`harness vlfeedback pairs`: preference pairs, or the best answers, of rated answers."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from harness.cli.options import Json, Seed
from harness.cli.setting_options import OptionGroup, with_settings
from harness.cli.vlfeedback.options import (
    CopyImages,
    EmbedImages,
    Images,
    RatedData,
    UseRay,
    Workers,
    read_data,
    refuse_overwriting,
    use_ray,
)
from support.errors import OK, UsageError
from support.settings import settings_of
from trainers.config.data import PairOptions
from trainers.data.pair_rules import NamedRule, PairCounts, best_answers, find_rule, pair_up, settle

if TYPE_CHECKING:
    from trainers.data.rows import Preference

log = logging.getLogger(__name__)


def _make_rule(given: Mapping[str, Any]) -> NamedRule:
    """The rule that the options name, with the values that were given in the place of its own."""
    defaults = {setting.name: setting.default for setting in settings_of(PairOptions)}
    values = {name: value for name, value in given.items() if value is not None and value != defaults[name]}
    try:
        if "weights" in values:
            values["weights"] = {aspect: float(weight) for aspect, weight in values["weights"].items()}
    except ValueError as error:
        raise UsageError(f"--weights {given['weights']!r}: must be ASPECT=NUMBER: {error}") from None
    return find_rule(values.pop("rule", "authors"), **values)


PAIRS: Final = OptionGroup(
    kind=PairOptions,
    make=_make_rule,
    panel="Pairs",
    names={"per_instruction": "per_prompt"},
    types={"rule": str},
    forms={"aspects": "ASPECT", "weights": "ASPECT=NUMBER"},
    environment=False,
)


def _write_split(
    pairs: "Iterator[Preference]",
    out: Path,
    test_share: float,
    seed: int,
    write: "Callable[[Iterable[Preference], Path], int]",
) -> dict[Path, int]:
    """Write the pairs, those of held-out prompts to a second file; the number of pairs in each file."""
    from trainers.data.pair_split import set_aside

    if not test_share:
        return {out: write(pairs, out)}
    held_out: list[Preference] = []
    files = {out: write(set_aside(pairs, test_share, seed, held_out), out)}
    other = out.with_name(f"{out.stem}-test{out.suffix}")
    return files | {other: write(held_out, other)}


@with_settings(pairs=PAIRS)
def pairs_command(
    data: RatedData,
    out: Annotated[Path, typer.Option(help="File to write; its ending (.parquet, .jsonl, .json) says in which form.")],
    images: Images = None,
    test_share: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of prompts whose pairs go to a second file, NAME-test.")
    ] = 0.0,
    best: Annotated[
        bool, typer.Option("--best", help="Write the best answer of each row, for SFT, not pairs.")
    ] = False,
    form: Annotated[str, typer.Option("--format", help="trl, povid, sharegpt, rlhf-v or rlaif-v.")] = "trl",
    embed_images: EmbedImages = False,
    copy_images: CopyImages = True,
    ray: UseRay = None,
    workers: Workers = 2,
    seed: Seed = None,
    as_json: Json = False,
    *,
    pairs: NamedRule,
) -> int:
    """Make preference pairs of rated answers.

    A split is by prompt: no question is on both sides.
    """
    from support.markdown import table
    from trainers.data.pair_formats import write_best, write_pairs
    from trainers.data.vlfeedback_format import Seen

    refuse_overwriting(out, data)
    if best and (form != "trl" or test_share):
        raise UsageError("--best writes TRL's prompt and completion columns, without a split")
    counts, seen = PairCounts(), Seen()
    how: dict[str, Any] = {"seen": seen, "embed_images": embed_images, "copy_images": copy_images}
    rule, rows = settle(pairs, read_data(data, images, seen))
    if best:
        written = write_best(best_answers(rows, rule, seed or 0), out, **how)
        log.info(f"{out}: {written} best answers; {seen.summary()}")
        if as_json:
            print(json.dumps({"rows": seen.rows, "answers": written, "files": [str(out)]}))
        return OK
    with use_ray(ray) as on_ray:
        if on_ray:
            from trainers.vlfeedback.ray_stages import pairs_by_ray

            made: Iterator[Preference] = pairs_by_ray(rows, rule, counts, workers=workers)
        else:
            made = pair_up(rows, rule, counts)
        files = _write_split(made, out, test_share, seed or 0, partial(write_pairs, form=form, **how))
    for path, count in files.items():
        log.info(f"{path}: {count} pairs")
    log.info(seen.summary())
    if as_json:
        facts = {"files": {str(path): count for path, count in files.items()}, "seen": seen.to_json()}
        print(json.dumps(counts.to_json() | facts))
    else:
        lines = [[name.replace("_", " "), str(count)] for name, count in counts.to_json().items()]
        print(table(["what", "how many"], lines))
    return OK
