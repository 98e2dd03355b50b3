"""A training run before it runs: everything it depends on, read from TOML.

    recipe = find_recipe("scenes-demo")          # a name in trainers/recipes, or the path of a TOML file
    recipe.digest                                # changes with every value that matters

Unknown keys are refused with the known ones named; a number without its unit in the name says it in its docstring.
"""

import difflib
import hashlib
import re
import tomllib
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from trainers.errors import BadInput

FOLDER = Path(__file__).parent / "recipes"
_POOLS = Path(__file__).parent / "vlfeedback" / "pools"
POOLS = {path.stem: path for path in sorted(_POOLS.glob("*.toml"))}
"""Pools that a recipe can name."""
ASPECTS = ("Helpfulness", "Ethical Considerations", "Visual Faithfulness")
"""VLFeedback's three aspects, in the order of its prompt."""
RatingMode = Literal["joint", "per-aspect"]
"""All aspects in one judge call, as VLFeedback's authors did, or one call for each."""
TextOrder = Literal["shuffled", "authors"]
"""Texts before the judge in a seeded order of their own for each instruction, or always in the order the data have them."""


class RecipeError(BadInput):
    """A recipe that can't be found or read; one line that names the file, the key and what is known."""


class _Section(BaseModel):
    # JSON has no word for what is not finite: digests of recipes that differ in it would be one.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PoolModel(_Section):
    """One member of the pool that answers instructions."""

    model: Annotated[str, Field(min_length=1)]
    """A name of `harness models`, a folder or a hub id; where a server gives its answers, also what that one calls it."""
    url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    """The OpenAI-compatible server that gives its answers, such as http://node7:8000/v1; None: it runs here, or is served by name."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """0: the likeliest token each time."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sampled from the likeliest tokens that have this much probability together."""
    max_new_tokens: Annotated[int, Field(gt=0)] | None = None
    """Tokens of an answer at most; None: as many as [data] says."""
    prompt_suffix: str = ""
    """Put after every instruction."""
    label: Annotated[str, Field(pattern=r"^[^\x00-\x1f|]+$")] | None = None
    """Its name in the data; None: model@temperature."""

    @property
    def name(self) -> str:
        """How its answers are labelled: two temperatures of one model are two members."""
        return self.label or f"{self.model}@{self.temperature:g}"


def _named_pool(given: Any) -> Any:
    if not isinstance(given, str):
        return given
    if given not in POOLS:
        raise ValueError(f"no pool of that name; known: {', '.join(POOLS)}, or a list of members")
    return tomllib.loads(POOLS[given].read_text(encoding="utf-8"))["pool"]


def _told_apart(pool: tuple[PoolModel, ...]) -> tuple[PoolModel, ...]:
    names = [member.name for member in pool]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two members are called {twice[0]!r}: give one of them another label")
    return pool


Pool = Annotated[tuple[PoolModel, ...], BeforeValidator(_named_pool), AfterValidator(_told_apart), Field(min_length=2)]
"""Members with different names; or the name of a pool that comes with the package."""


class Source(_Section):
    """Where some of the instructions come from."""

    name: Annotated[str, Field(pattern=r"^[^\x00-\x1f|]+$")]
    """A declared source, "scenes", hub:OWNER/NAME[@REVISION], or the path of a table or of a folder of images; with `path`, any name."""
    path: str | None = None
    """Its local copy (a table, or a folder), or hub:OWNER/NAME[@REVISION]; None for a declared source: from the hub."""
    images: str | None = None
    """Folder or zip with its pictures; None: beside the table."""
    weight: Annotated[float, Field(gt=0)] | None = None
    """Its share of the instructions is weight / sum of weights; None for a declared source: what VLFeedback took from it."""
    count: Annotated[int, Field(gt=0)] | None = None
    """Exactly so many instructions, in place of a share."""
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
    def _has_one_size(self) -> "Source":
        if self.weight is not None and self.count is not None:
            raise ValueError("has both a weight and a count; give one")
        return self


class Filters(_Section):
    """Which instructions of the sources are left out."""

    min_words: Annotated[int, Field(ge=0)] = 1
    max_words: Annotated[int, Field(gt=0)] | None = None
    min_characters: Annotated[int, Field(ge=0)] = 1
    max_characters: Annotated[int, Field(gt=0)] | None = None
    min_side: Annotated[int, Field(ge=0)] = 0
    """Pixels of the picture's shorter side."""
    per_image: Annotated[int, Field(gt=0)] | None = None
    """At most so many instructions about one picture; the same wording about the same picture is always taken once."""
    per_prompt: Annotated[int, Field(gt=0)] | None = None
    """At most so many instructions of one wording."""
    near: bool = True
    """Pictures that look the same count as the same picture."""


PairRule = Literal[
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
"""The rules of trainers/vlfeedback/pairs.py."""


class Data(_Section):
    """How preference data are built: instructions, answers, ratings, pairs."""

    source: Literal["scenes"] = "scenes"
    """Where all instructions come from when there are no `sources`."""
    sources: tuple[Source, ...] = ()
    filters: Filters = Filters()
    instructions: Annotated[int, Field(gt=0)]
    captions: Annotated[float, Field(ge=0, le=1)] = 0.6
    """Share of instructions that ask for a caption; the rest are questions, yes/no ones in pairs of true yes and true no."""
    pool: Pool
    """Who answers: members, or the name of a file in trainers/vlfeedback/pools, such as "paper", VLFeedback's twelve models."""
    answers: Annotated[int, Field(ge=2)] = 4
    """Answers an instruction, each by another member of the pool."""
    judge: str = "exact"
    mode: RatingMode = "joint"
    """How the judge is asked."""
    order: TextOrder = "shuffled"
    """"shuffled": judges prefer some places; the ratings keep which text stood where."""
    max_new_tokens: Annotated[int, Field(gt=0)] = 96
    """Tokens of an answer at most, where the member of the pool has no limit of its own."""
    rule: PairRule = "authors"
    """Of which two answers one is chosen: "authors" (VLFeedback) takes all pairs of unequal mean rating; trainers/vlfeedback/pairs.py."""
    aspects: tuple[Literal["Helpfulness", "Ethical Considerations", "Visual Faithfulness"], ...] = ()
    """The aspects whose ratings count; none given: those of the rule."""
    weights: dict[Literal["Helpfulness", "Ethical Considerations", "Visual Faithfulness"], Annotated[float, Field(ge=0)]] = {}
    """Aspect -> weight in the mean; none given: all the same."""
    min_margin: Annotated[float, Field(ge=0)] | None = None
    """Lowest gap of a pair, in rating points; None: that of the rule."""
    largest_gap: bool = False
    """Of each instruction only the pairs of its largest gap."""
    max_length_ratio: Annotated[float, Field(ge=1)] | None = None
    """The longer answer of a pair has at most this many times the characters of the shorter; None: that of the rule."""
    strongest: str = ""
    """The member whose answers rule "strongest" chooses; "": the one of the highest mean rating."""
    min_chosen: Annotated[float, Field(ge=1, le=5)] = 1.0
    """Lowest mean rating of a chosen answer."""
    per_instruction: Annotated[int, Field(gt=0)] | None = None
    """At most this many pairs an instruction, those of the largest margin; None: all."""
    balance_yes_no: bool = False
    """As many pairs that choose "yes" as pairs that choose "no"."""


class Dataset(_Section):
    """Preference data that are there already: rated answers, of which a rule makes pairs, or the pairs themselves."""

    read: Annotated[str, Field(min_length=1)]
    """A file or folder; "public", MMInstruction/VLFeedback as the hub has it; or hub:OWNER/NAME[@REVISION]."""
    images: str | None = None
    """Folder or zip of the pictures; None: they stand beside the data, or in them."""
    format: str | None = None
    """Of pairs: a form of trainers/vlfeedback/formats.py; None: told by the columns."""
    take: Literal["pairs", "best"] = "pairs"
    """Of rated answers: the rule's pairs, or the best answer of each row alone, which is for SFT."""
    rule: PairRule = "authors"
    """This and what follows, down to `balance_yes_no`, is of rated answers, and as in [data]."""
    aspects: tuple[Literal["Helpfulness", "Ethical Considerations", "Visual Faithfulness"], ...] = ()
    weights: dict[Literal["Helpfulness", "Ethical Considerations", "Visual Faithfulness"], Annotated[float, Field(ge=0)]] = {}
    min_margin: Annotated[float, Field(ge=0)] | None = None
    largest_gap: bool = False
    max_length_ratio: Annotated[float, Field(ge=1)] | None = None
    strongest: str = ""
    min_chosen: Annotated[float, Field(ge=1, le=5)] | None = None
    per_instruction: Annotated[int, Field(gt=0)] | None = None
    balance_yes_no: bool = False
    test_share: Annotated[float, Field(ge=0, lt=1)] = 0.005
    """Share of prompts whose pairs are held out of training; VLFeedback's authors held out as much, of pairs."""
    split_seed: int = 42
    """Theirs."""
    limit: Annotated[int, Field(gt=0)] | None = None
    """At most so many rows of rated answers, or pairs, from the front."""
    missing_images: Literal["refuse", "drop"] = "refuse"
    """What becomes of pairs whose picture is not there, or does not open."""
    image_tokens: Literal["refuse", "drop"] = "refuse"
    """What becomes of `<image>` in a prompt where the data's form has no place for it: as many as the pair has pictures are taken out."""

    @model_validator(mode="after")
    def _has_pairs_to_choose_from(self) -> "Dataset":
        of_pairs = ("min_margin", "largest_gap", "max_length_ratio", "per_instruction", "balance_yes_no")
        given = [name for name in of_pairs if getattr(self, name) != type(self).model_fields[name].default]
        if self.take == "best" and given:
            raise ValueError(f"{given[0]} is for pairs, and take = 'best' makes none; leave it out")
        return self


class Lora(_Section):
    """Low-rank adapters (peft)."""

    r: Annotated[int, Field(gt=0)]
    alpha: Annotated[int, Field(gt=0)]
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """DPO switches it off, as it did for Silkie: policy and reference are then one model at the start."""
    targets: str
    """Regular expression over module names; one that reaches into the vision tower trains it too."""
    rslora: bool = False
    """Scaled by alpha / sqrt(r) in place of alpha / r."""
    dora: bool = False
    """Direction and magnitude of a weight are trained apart."""
    init: Literal["default", "gaussian", "orthogonal", "pissa", "olora"] = "default"
    """How adapters begin. pissa and olora begin as parts of the weights; they are saved as adapters of twice the rank on the weights
    as they were."""

    @field_validator("targets")
    @classmethod
    def _is_an_expression(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        return value


class Noise(_Section):
    """POVID's second stage: what is done to the picture, and how the answer read off it counts."""

    step: Annotated[int, Field(ge=0, lt=1000)] = 500
    """Of the diffusion schedule."""
    overflow: Literal["clamp", "wrap"] = "clamp"
    """Values that leave a byte's range are cut off, or taken modulo 256, as POVID's release does."""
    place: Literal["before", "after"] = "before"
    """Noise before the picture is resized, as in the release, or after."""
    alpha: Annotated[float, Field(gt=0)] | None = None
    """povid-paper: weight of the chosen answer's log-ratio; None: beta. The paper reports none of its three."""
    beta_image: Annotated[float, Field(gt=0)] | None = None
    """povid-paper: weight of the log-ratio of the answer to the noised picture; None: beta."""


_OTHER_PICTURES = ("mdpo", "povid-paper", "povid-code")
"""Losses that read an answer beside a second picture, which packed rows have no place for."""

Scheduler = Literal["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"]
"""Those of transformers that need nothing but the steps of the run and of its warm-up. polynomial: of power 1, down to 1e-7."""


class Training(_Section):
    """The optimizer's side, the same for DPO and its SFT control."""

    learning_rate: Annotated[float, Field(gt=0)]
    batch_size: Annotated[int, Field(gt=0)]
    """Pairs an optimizer step, over all processes."""
    per_device_batch_size: Annotated[int, Field(gt=0)] | None = None
    """Pairs a process has in memory at once; gradients are accumulated up to `batch_size`. None: all of its share."""
    epochs: Annotated[float, Field(gt=0)] = 1.0
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The same as a share of all steps."""
    scheduler: Scheduler = "cosine"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-8
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients of a larger norm are scaled down to it."""
    loss: Literal["dpo", "cdpo", "robust", "ipo", "hinge", "mpo", "ddpo", "mdpo", "povid-paper", "povid-code"] = "dpo"
    """Of trainers/losses.py; the POVID losses also need an answer to a noised picture, mdpo a crop of each, made in training."""
    beta: Annotated[float, Field(gt=0)] = 0.1
    smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """cdpo, robust: share of pairs taken to be swapped."""
    sft_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the negative log-likelihood of the chosen answer beside the DPO loss."""
    gamma: Annotated[float, Field(gt=0)] | None = None
    """ddpo: how many times a token counts in which the two answers differ; None: 5, RLHF-V's. Its beta is 0.5."""
    anchor: float | None = None
    """mdpo: what reward the chosen answer is held above; None: 0, the authors'."""
    crop_area: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] | None = None
    """mdpo: least and greatest share of the picture that is left of it; None: 0.01 and 0.2, the authors'."""
    noise: Noise = Noise()
    max_length: Annotated[int, Field(gt=0)] | None = None
    """Tokens of prompt, images and answer, after which answers are cut; None: they are whole."""
    too_long: Literal["refuse", "drop"] = "refuse"
    """What becomes of pairs that `max_length` leaves no answer of."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """"auto": bf16 on a GPU, except for a base that computes in single precision."""
    gradient_checkpointing: bool = False
    """A quarter to a third more time, several times less memory."""
    quantization: Literal["4bit"] | None = None
    """The frozen base in four bits (NF4, bitsandbytes): QLoRA."""
    checkpoints: Annotated[int, Field(gt=0)] = 1
    """How many checkpoints are saved and scored, evenly spaced, the last at the end."""
    save_steps: Annotated[int, Field(gt=0)] | None = None
    """In their place: one after every so many steps, and one at the end."""
    keep: Annotated[int, Field(gt=0)] | None = None
    """Only the last so many checkpoints stay; None: all."""
    log_steps: Annotated[int, Field(gt=0)] = 5
    eval_steps: Annotated[int, Field(gt=0)] | None = None
    """How often the pairs that [dataset] holds out are scored; None: never. [data] holds none out."""
    report_to: tuple[Literal["wandb", "trackio", "tensorboard"], ...] = ()
    """Where the log goes beside log.jsonl."""
    group_pairs: bool = False
    """All pairs of a prompt in one batch: many times less work, and batches whose pairs are alike."""
    group_by_length: bool = False
    """Pairs of like length in one batch, by the characters of prompt and answers: less padding, and batches in another order."""
    plain_trl: bool = False
    """TRL's own DPO trainer in place of the one that reads images and prompts once; the only one for full fine-tuning."""
    features_room_mib: Annotated[int, Field(ge=0)] | None = None
    """MiB of the CPU's memory in which each process keeps what a frozen vision tower says of pictures; 0: none is kept; None: 2048."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that open pictures ahead of training; 0: training does."""
    train_vision: bool = False
    """Full fine-tuning trains the vision tower too."""
    lora: Lora | None = None
    """None: all weights are trained, but for the vision tower."""

    @model_validator(mode="after")
    def _fits_together(self) -> "Training":
        if self.quantization and self.lora is None:
            raise ValueError("quantization = '4bit' is for training adapters: give [training.lora]")
        if self.quantization and self.lora is not None and self.lora.init in ("pissa", "olora"):
            raise ValueError(f"init = {self.lora.init!r} changes the weights, which quantization = '4bit' has fixed")
        if self.lora is not None and self.lora.init in ("pissa", "olora") and self.lora.dora:
            raise ValueError(f"init = {self.lora.init!r} does not go with dora: its start could not be taken out again")
        if self.train_vision and self.lora is not None:
            raise ValueError("train_vision is for full fine-tuning; with adapters, targets of [training.lora] say what is trained")
        unpacked = "plain_trl" if self.plain_trl else "full fine-tuning" if self.lora is None else f"loss = {self.loss!r}"
        if self.group_pairs and (self.plain_trl or self.lora is None or self.loss in _OTHER_PICTURES):
            raise ValueError(f"group_pairs is for packed rows, which {unpacked} does not have; leave it out")
        if self.features_room_mib is not None and (self.plain_trl or self.lora is None or self.loss in _OTHER_PICTURES):
            raise ValueError(f"features_room_mib is for packed rows, which {unpacked} does not have; leave it out")
        if self.scheduler == "polynomial" and self.learning_rate <= 1e-7:
            raise ValueError(f"scheduler = 'polynomial' goes down to 1e-7, and learning_rate = {self.learning_rate:g} is not above it")
        if self.warmup_steps and self.warmup_ratio:
            raise ValueError("has both warmup_steps and warmup_ratio; give one")
        if self.smoothing and self.loss not in ("cdpo", "robust"):
            raise ValueError(f"smoothing = {self.smoothing:g} is for the losses cdpo and robust, not {self.loss!r}")
        if self.loss in ("cdpo", "robust") and not self.smoothing:
            raise ValueError(f"loss = {self.loss!r} with smoothing = 0 is dpo; give the share of pairs taken to be swapped")
        if self.too_long == "drop" and self.max_length is None:
            raise ValueError("too_long = 'drop' leaves out what max_length leaves no answer of; give max_length")
        if self.sft_weight and self.loss in ("ddpo", *_OTHER_PICTURES):
            raise ValueError(f"sft_weight does not go with loss = {self.loss!r}")
        if self.plain_trl and self.loss == "mdpo":
            raise ValueError("plain_trl is TRL's own trainer in place of packed rows, and loss = 'mdpo' has neither; leave it out")
        if self.gamma is not None and self.loss != "ddpo":
            raise ValueError(f"gamma = {self.gamma:g} is for the loss ddpo, not {self.loss!r}")
        if self.loss != "mdpo" and (given := [name for name in ("anchor", "crop_area") if getattr(self, name) is not None]):
            raise ValueError(f"{given[0]} is for the loss mdpo, not {self.loss!r}")
        if self.crop_area is not None and self.crop_area[0] > self.crop_area[1]:
            raise ValueError(f"crop_area = {list(self.crop_area)}: the least share comes first")
        if self.noise != Noise() and not self.loss.startswith("povid"):
            raise ValueError(f"[training.noise] is for the losses povid-paper and povid-code, not {self.loss!r}")
        if self.loss != "povid-paper" and (self.noise.alpha or self.noise.beta_image):
            raise ValueError("alpha and beta_image of [training.noise] are povid-paper's; povid-code has beta alone")
        return self


class Stage(_Section):
    """One stage of pretraining."""

    steps: Annotated[int, Field(gt=0)]
    batch_size: Annotated[int, Field(gt=0)]
    """Images a step."""
    learning_rate: Annotated[float, Field(gt=0)]


class Pretraining(_Section):
    """The three stages of the embedded models' pretraining, and where the early one is taken."""

    see: Stage
    speak: Stage
    believe: Stage
    early_step: Annotated[int, Field(gt=0)]
    """Step of `speak` whose weights become scenes-early."""


class Recipe(_Section):
    """One training run."""

    name: str
    trainer: str
    """An entry point of the group harness.trainers."""
    base: str | None = None
    """Model that is trained: a name of `harness models`, a folder, or a hub id; None where training starts from nothing."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    tasks: tuple[str, ...] = ()
    """What every checkpoint is scored on."""
    panel: tuple[str, ...] = ()
    """Metrics ("task.metric") that are judged together with the tasks' headline metrics."""
    columns: tuple[str, ...] = ()
    """Metrics the report's leaderboard shows beside the headline ones; none given: all."""
    curves: tuple[str, ...] = ()
    """Metrics the report plots against training step."""
    examples: str = ""
    """Task whose answers the report shows before and after; "" for none."""
    note: str = ""
    """A sentence the report must not be read without."""
    control: bool = False
    """Also train by SFT on the same chosen answers, to tell what the preferences themselves add."""
    data: Data | None = None
    """Preference data that are built."""
    dataset: Dataset | None = None
    """In their place: data that are there already."""
    training: Training | None = None
    pretraining: Pretraining | None = None

    @field_validator("trainer")
    @classmethod
    def _is_installed(cls, value: str) -> str:
        known = sorted(entry_points(group="harness.trainers").names)
        if value not in known:
            near = difflib.get_close_matches(value, known, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"no trainer of that name{hint}; known: {', '.join(known)}")
        return value

    @model_validator(mode="after")
    def _has_its_sections(self) -> "Recipe":
        if self.pretraining is None and (self.base is None or self.training is None or (self.data is None and self.dataset is None)):
            raise ValueError("needs either [pretraining], or base, [training] and [data] or [dataset]")
        if self.data is not None and self.dataset is not None:
            raise ValueError("has both [data], which builds, and [dataset], which reads; give one")
        if self.dataset is not None and self.dataset.take == "best" and self.trainer != "sft":
            raise ValueError(f"[dataset] take = 'best' has no rejected answers to train on by {self.trainer!r}; trainer = 'sft' does")
        if self.training is not None and self.training.eval_steps and self.dataset is not None and not self.dataset.test_share:
            raise ValueError(f"eval_steps = {self.training.eval_steps} scores pairs held out, and [dataset] test_share = 0 holds none out")
        return self

    @model_validator(mode="after")
    def _has_what_its_trainer_reads(self) -> "Recipe":
        if self.trainer == "scenes" and self.pretraining is None:
            raise ValueError("trainer = 'scenes' pretrains from nothing and needs [pretraining]; 'dpo' and 'sft' train on preferences")
        if self.trainer in ("dpo", "sft") and self.training is None:
            raise ValueError(f"trainer = {self.trainer!r} needs base, [training] and [data] or [dataset]; 'scenes' does [pretraining]")
        sections = ("base", "data", "dataset", "training", "control") if self.trainer == "scenes" else ("pretraining",)
        if self.trainer in ("dpo", "sft", "scenes") and (given := [name for name in sections if getattr(self, name)]):
            raise ValueError(f"{given[0]} is given, which trainer = {self.trainer!r} does not read; leave it out")
        if self.trainer == "sft" and self.training is not None:
            unread = {"loss": "dpo", "beta": 0.1, "sft_weight": 0.0, "group_pairs": False, "features_room_mib": None, "plain_trl": False}
            if given := [name for name, value in unread.items() if getattr(self.training, name) != value]:
                raise ValueError(f"{given[0]} of [training] is for trainer = 'dpo', not 'sft', which learns the chosen answers alone")
        if self.trainer == "sft" and self.control:
            raise ValueError("control = true is the SFT arm beside trainer = 'dpo'; trainer = 'sft' is that arm itself")
        return self

    @property
    def digest(self) -> str:
        """Of every value that is not the default, the name included: a run folder belongs to one digest."""
        return hashlib.sha256(self.model_dump_json(exclude_defaults=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Weights on disk after `step` optimizer steps."""

    path: Path
    step: int
    arm: str
    """ "dpo", or "sft" for the control."""


def known_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def find_recipe(name: str, **changes: Any) -> Recipe:
    """The recipe of this name or file; `changes` replace its top-level values."""
    known = known_recipes()
    path = known.get(name, Path(name))
    if path.suffix != ".toml" or not path.is_file():
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise RecipeError(f"no recipe {name!r}{hint}; known: {', '.join(known)}, or the path of a .toml file")
    try:
        return Recipe.model_validate({**tomllib.loads(path.read_text(encoding="utf-8")), **changes})
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path}: not TOML: {error}") from error
    except ValidationError as error:
        raise RecipeError(f"{path}: {first_problem(error)}") from error


def first_problem(error: ValidationError, section: Any = None) -> str:
    """In one line what is wrong first with a recipe, or with a `section` of one."""
    # A misspelt key is also a missing one; the misspelling is the better news.
    problem = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    where = ".".join(str(part) for part in problem["loc"]) or "recipe"
    if problem["type"] == "missing":
        return f"{where} is missing"
    if problem["type"] != "extra_forbidden":
        value, said = problem.get("input"), problem["msg"].removeprefix("Value error, ")
        # Of a section that does not fit together the message names the keys.
        return f"{where}: {said}" if isinstance(value, dict | BaseModel) else f"{where} = {value!r}: {said}"
    section = section or Recipe
    for part in problem["loc"][:-1]:
        if isinstance(part, str):
            section = _SECTIONS.get(part, section)
    fields = sorted(section.model_fields)
    near = difflib.get_close_matches(str(problem["loc"][-1]), fields, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"unknown key {where!r}{hint}; known: {', '.join(fields)}"


_SECTIONS: dict[str, type[_Section]] = {
    "data": Data,
    "sources": Source,
    "filters": Filters,
    "pool": PoolModel,
    "dataset": Dataset,
    "training": Training,
    "lora": Lora,
    "noise": Noise,
    "pretraining": Pretraining,
    "see": Stage,
    "speak": Stage,
    "believe": Stage,
}
