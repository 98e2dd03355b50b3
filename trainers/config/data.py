"""The part of a recipe that says which preference data to use or build."""

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from support.errors import RecipeError, did_you_mean
from support.judge_names import SCENES, current_judge
from support.secrets import redact, remember_address

POOLS = {path.stem: path for path in sorted((Path(__file__).parents[1] / "vlfeedback/pools").glob("*.toml"))}
"""Pools that a recipe can name."""
ASPECTS = ("Helpfulness", "Ethical Considerations", "Visual Faithfulness")
"""VLFeedback's three aspects, in the order of its prompt."""
SHORT_ASPECTS = {"ethics": ASPECTS[1], "ethical": ASPECTS[1], "faithfulness": ASPECTS[2]}
RatingMode = Literal["joint", "per-aspect"]
"""All aspects in one judge call, as VLFeedback's authors did, or one call an aspect."""
TextOrder = Literal["shuffled", "authors"]
"""Order of the texts in the judge's prompt: drawn by the seed for each instruction, or that of the data."""


class Section(BaseModel):
    """A table of a recipe: unknown keys and values that are not finite are refused."""

    # JSON writes infinity and NaN as null: recipes that differ in them would have the same digest.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


UNLESS_NONE: Final = Field(exclude_if=lambda value: value is None)
"""Of keys that came later: recipes without them are recorded as they were."""


class PoolModel(Section):
    """One member of the pool that answers instructions."""

    model: Annotated[str, Field(min_length=1)]
    """A name of `harness models`, a folder or a hub id; with `url`, the server's name for it."""
    url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    """OpenAI-compatible server that gives its answers (http://node7:8000/v1); None: it runs here, or is served."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """0: the likeliest token each time."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Tokens are drawn from the likeliest ones that have this much probability together."""
    max_new_tokens: Annotated[int, Field(gt=0)] | None = None
    """Tokens of an answer at most; None: as many as [data] says."""
    prompt_suffix: str = ""
    """Put after every instruction."""
    thinking: Annotated[Literal["on", "off"] | None, UNLESS_NONE] = None
    """Whether it thinks before it answers, where its chat template has this switch; None: as it does by itself."""
    thinking_tokens: Annotated[int | None, Field(ge=0), UNLESS_NONE] = None
    """Most tokens of thoughts, on top of max_new_tokens; None: 4096, of a server none."""
    label: Annotated[str, Field(pattern=r"^[^\x00-\x1f|]+$")] | None = None
    """Its name in the data; None: model@temperature."""

    @model_validator(mode="after")
    def _has_room_for_thoughts(self) -> "PoolModel":
        if self.thinking == "off" and self.thinking_tokens:
            raise ValueError(f"thinking_tokens = {self.thinking_tokens}: would not act with thinking = off")
        return self

    @model_serializer(mode="wrap", when_used="json")
    def _without_secrets(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Files, and the recipe's digest, hold no password: nothing that reads them asks the server."""
        # Of the whole member: a serializer of the field alone writes defaults, too, and so moves digests.
        found: dict[str, Any] = write(self)
        if self.url is not None and "url" in found:
            remember_address(self.url)
            found["url"] = redact(self.url)
        return found

    @property
    def name(self) -> str:
        """How its answers are labelled: two temperatures of one model are two members."""
        return self.label or f"{self.model}@{self.temperature:g}"


def _read_pool_of_name(given: Any) -> Any:
    if not isinstance(given, str):
        return given
    if given not in POOLS:
        raise ValueError(f"no pool of that name; known: {', '.join(POOLS)}, or a list of members")
    return tomllib.loads(POOLS[given].read_text(encoding="utf-8"))["pool"]


def _check_member_names(pool: tuple[PoolModel, ...]) -> tuple[PoolModel, ...]:
    names = [member.name for member in pool]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two members are called {twice[0]!r}: give one of them another label")
    return pool


_CHECKS = BeforeValidator(_read_pool_of_name), AfterValidator(_check_member_names), Field(min_length=2)
Pool = Annotated[tuple[PoolModel, ...], *_CHECKS]
"""Members with different names; or the name of a pool that comes with the package."""


class InstructionSource(Section):
    """Where some of the instructions come from."""

    name: Annotated[str, Field(pattern=r"^[^\x00-\x1f|]+$")]
    """A declared source, "scenes", hub:OWNER/NAME[@REVISION], or the path of a table or of a folder of images; with
    `path`, any name."""
    path: str | None = None
    """Its local copy (a table, or a folder), or hub:OWNER/NAME[@REVISION]; None for a declared source: from the hub."""
    images: str | None = None
    """Folder or zip with its pictures; None: beside the table."""
    weight: Annotated[float, Field(gt=0)] | None = None
    """Its share of all instructions is weight / sum of weights; None for a declared source: its share in VLFeedback."""
    count: Annotated[int, Field(gt=0)] | None = None
    """Exactly this many instructions, in place of a share."""
    prompt_column: str | None = None
    image_column: str | None = None
    prompts: tuple[str, ...] = ()
    """For a folder of images: each of these is asked about each image."""
    split: str = "train"
    """Of a hub dataset."""
    config: str | None = None
    """Of a hub dataset that has several."""
    revision: str | None = None
    """Commit of the hub dataset of a declared source; None: the newest."""

    @model_validator(mode="after")
    def _has_one_size(self) -> "InstructionSource":
        if self.weight is not None and self.count is not None:
            raise ValueError("has both a weight and a count; give one")
        return self


class Filters(Section):
    """Which instructions of the sources are left out."""

    min_words: Annotated[int, Field(ge=0)] = 1
    max_words: Annotated[int, Field(gt=0)] | None = None
    min_characters: Annotated[int, Field(ge=0)] = 1
    max_characters: Annotated[int, Field(gt=0)] | None = None
    min_side: Annotated[int, Field(ge=0)] = 0
    """Pixels of the picture's shorter side."""
    per_image: Annotated[int, Field(gt=0)] | None = None
    """At most this many instructions about one picture; the same text about the same picture is always taken once."""
    per_prompt: Annotated[int, Field(gt=0)] | None = None
    """At most this many instructions of the same text."""
    near: bool = True
    """Pictures that look the same (by perceptual hash) count as one picture."""


def find_aspect(name: str) -> str:
    """The aspect as the data spell it, from its name in any case or a short name such as "ethics"; RecipeError."""
    known = {aspect.casefold(): aspect for aspect in ASPECTS} | SHORT_ASPECTS
    wanted = re.sub(r"[\s_-]+", " ", name).strip().casefold()
    if wanted not in known:
        raise RecipeError(f"no aspect {name!r}{did_you_mean(wanted, known)}")
    return known[wanted]


Aspect = Annotated[str, AfterValidator(find_aspect)]

RuleName = Literal[
    "authors",
    "margin",
    "largest-gap",
    "helpfulness",
    "ethics",
    "faithfulness",
    "no-ethics",
    "weighted",
    "length-controlled",
    "dominant",
    "longest",
    "strongest",
]
"""The rules of trainers/data/pair_rules.py."""


def _check_rule(name: Any) -> Any:
    if name not in get_args(RuleName):
        raise ValueError(f"no pair rule of that name{did_you_mean(str(name), get_args(RuleName))}")
    return name


class PairOptions(Section):
    """Which pairs are made of rated answers: the options of `harness vlfeedback pairs`, and keys of [data] and
    [dataset]."""

    rule: Annotated[RuleName, BeforeValidator(_check_rule)] = "authors"
    """Of which two answers one is chosen; "authors" (VLFeedback) takes all pairs of unequal mean rating."""
    aspects: tuple[Aspect, ...] = ()
    """The aspects whose ratings count; none given: those of the rule."""
    weights: dict[Aspect, Annotated[float, Field(ge=0)]] = {}
    """Aspect -> weight in the mean; none given: all the same. An aspect without a weight does not count."""
    min_margin: Annotated[float, Field(ge=0)] | None = None
    """Lowest gap of a pair, in rating points; None: that of the rule."""
    largest_gap: bool = False
    """Of each instruction only the pairs of its largest gap: several where they are equal."""
    max_length_ratio: Annotated[float, Field(ge=1)] | None = None
    """The longer answer of a pair has at most this many times the characters of the shorter; None: that of the rule."""
    strongest: str = ""
    """The model whose answers rule "strongest" chooses; "": the one of the highest mean rating."""
    min_chosen: float | None = None
    """Lowest mean rating of a chosen answer; None: any."""
    per_instruction: Annotated[int, Field(gt=0)] | None = None
    """At most this many pairs an instruction, those of the largest gap; None: all."""
    balance_yes_no: bool = False
    """As many pairs that choose "yes" as pairs that choose "no": the last of the more frequent are dropped. Holds all
    pairs in memory."""


# Digests of recipes are taken in the order of fields, and the fields of a class's last base come first.
class _DataSettings(Section):
    """The keys of [data] that say how rated answers are made."""

    source: Literal["scenes"] = "scenes"
    """Where all instructions come from when there are no `sources`."""
    sources: tuple[InstructionSource, ...] = ()
    filters: Filters = Filters()
    instructions: Annotated[int, Field(gt=0)]
    captions: Annotated[float, Field(ge=0, le=1)] = 0.6
    """Share of instructions that ask for a caption; the rest are questions, yes/no ones in pairs of true yes and true
    no."""
    pool: Pool
    """The models that answer: members, or a file's name in trainers/vlfeedback/pools ("paper": VLFeedback's twelve)."""
    answers: Annotated[int, Field(ge=2)] = 4
    """Answers an instruction, each by another member of the pool."""
    judge: Annotated[str, BeforeValidator(current_judge)] = SCENES
    mode: RatingMode = "joint"
    order: TextOrder = "shuffled"
    """Shuffled since judges prefer some positions; the ratings keep which text had which."""
    max_new_tokens: Annotated[int, Field(gt=0)] = 96
    """Most tokens of an answer, for members of the pool without a limit of their own."""


class Data(PairOptions, _DataSettings):
    """How preference data are built: instructions, answers, ratings, pairs."""

    min_chosen: Annotated[float, Field(ge=1, le=5)] | None = 1.0


class _PreferenceSource(Section):
    """The keys of [dataset] that say what is read."""

    read: Annotated[str, Field(min_length=1)]
    """A file or folder; "public", MMInstruction/VLFeedback as the hub has it; or hub:OWNER/NAME[@REVISION]."""
    images: str | None = None
    """Folder or zip of the pictures; None: they are beside the data, or in them."""
    format: str | None = None
    """Of pairs: a form of trainers/data/pair_formats.py; None: found from the columns."""
    take: Literal["pairs", "best"] = "pairs"
    """Of rated answers: the rule's pairs, or the best answer of each row alone, which is for SFT."""
    held_out: Annotated[str | None, UNLESS_NONE] = None
    """Other data of the same kind, as `read`, that are the held-out side; None: a share of these."""


SPARED = 0.01
"""Share of rows whose pictures or marks can't be used that ends no run where the recipe says nothing of them."""


def _check_bad_rows(most: int | float | None) -> int | float | None:
    if most is not None and (most < 0 or (isinstance(most, float) and most >= 1)):
        raise ValueError(f"is {most}: must be a number of rows, or a share of them below 1, such as 0.02")
    return most


class PreferenceFile(PairOptions, _PreferenceSource):
    """Existing preference data: rated answers, of which a rule makes pairs, or pairs."""

    min_chosen: Annotated[float, Field(ge=1, le=5)] | None = None
    test_share: Annotated[float, Field(ge=0, lt=1)] = 0.005
    """Share of prompts whose pairs are held out of training; VLFeedback's authors held out this share of pairs."""
    split_seed: int = 42
    """The default is that of VLFeedback's authors."""
    limit: Annotated[int, Field(gt=0)] | None = None
    """Only the first so many rows of rated answers, or pairs."""
    missing_images: Literal["refuse", "drop"] = "refuse"
    """What to do with pairs whose picture is missing or does not open."""
    image_tokens: Literal["refuse", "drop"] = "refuse"
    """What to do with `<image>` in prompts of a form that has no place for it; "drop" removes one for each picture."""
    max_bad_rows: Annotated[int | float | None, AfterValidator(_check_bad_rows), UNLESS_NONE] = None
    """Leave out at most this many rows that can't be used (no pair in it, equal or empty answers, a picture that is
    missing, does not open, or that the model's processor refuses, a mark of a picture in a text, a prompt that fills
    max_length), or this share of all rows (0.02); more end the run. None: rows without two different answers are left
    out, too_long says what happens to long prompts, and of pictures and marks up to 1% of all rows are left out, unless
    missing_images or image_tokens is given as "refuse"."""

    def most_bad(self, rows: int) -> int | None:
        """How many of so many rows max_bad_rows lets be left out; None where it is not given."""
        most = self.max_bad_rows
        return int(most * rows) if isinstance(most, float) else most

    def most_spared(self, rows: int, key: str) -> int:
        """How many of so many rows are left out where neither max_bad_rows nor `key` says anything."""
        refused = key in self.model_fields_set and getattr(self, key) == "refuse"
        return 0 if refused else int(SPARED * rows)

    @model_validator(mode="after")
    def _check_pair_options(self) -> "PreferenceFile":
        of_pairs = ("min_margin", "largest_gap", "max_length_ratio", "per_instruction", "balance_yes_no")
        given = [name for name in of_pairs if getattr(self, name) != type(self).model_fields[name].default]
        if self.take == "best" and given:
            raise ValueError(f"{given[0]} is for pairs, and take = 'best' makes none; leave it out")
        if self.held_out is not None and self.test_share and "test_share" in self.model_fields_set:
            raise ValueError(f"has both held_out and test_share = {self.test_share:g}; give one")
        return self
