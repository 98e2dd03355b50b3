"""Walk 2: a recipe to checkpoints, and every checkpoint to the board.

    read preference pairs -> score the base -> or build them; look for the tasks' pictures -> train (and the SFT
    control), scoring every checkpoint as soon as it is complete -> check whether the last one uses its images, and what
    its log says -> paired tests, checkpoint selection, report, model cards

The run folder holds all of it. Each step looks at what the folder has and does the rest, so the same command finishes a
run that was killed and does nothing for one that is done.
"""

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Final

from harness.engine.chat_template import check_switch
from harness.engine.config import EngineConfig
from harness.engine.stage_timer import StageTimer
from harness.evaluation.eval_settings import EvalSettings
from harness.evaluation.lost import share_lost
from harness.evaluation.make_judge import check_judge
from harness.evaluation.protocol import as_asked
from harness.models.chat_templates import chat_template_of
from harness.models.configuration import identity_of
from harness.models.load import register
from harness.models.spec import ModelSpec
from harness.runs.checkpoint_selection import Metric, Scores, headlines, probe, select_checkpoint, tasks_of
from harness.runs.image_use_checks import STAGE, ImageUseChecks, check_image_use, draw_pairs
from harness.runs.interim_scoring import Processes, find_probes_without_value, train_and_score
from harness.runs.outcome import CONTROL, Outcome, Stop, panel_verdicts
from harness.runs.recipe_scoring import scored_by, settle_engine
from harness.runs.recipe_training import base_to_train, check_steps, merge_adapter, most_pairs, with_short_warm_up
from harness.runs.run_folder import claim, hold_run_folder, keep_own_scoring
from harness.runs.scoring_cost import cost_of_scoring, planned_scoring, rate_of
from harness.runs.scoring_queue import Scoring, describe_error
from harness.runs.training_alarms import (
    Alarm,
    LogLine,
    find_alarms,
    find_check_alarms,
    find_idle_training,
    lengths_of,
    read_log,
)
from harness.runs.training_data import OneOfSeeds, TrainingData, prepare_training_data
from harness.serving.adapters import Adapters, needs_of_usable
from harness.serving.engine_host import EngineHost, check_alone
from harness.serving.server_host import ServerHost
from leaderboards.board.board import Board
from support.errors import JudgeError, RunError
from support.files import atomic_write_text
from support.parsing import parse_json
from tasks.judges.protocol import Judge
from tasks.registry import TaskSpec
from trainers.cluster.launch import Layout
from trainers.config.data import Data
from trainers.config.recipe import PreferenceRecipe
from trainers.data.chat import TOKENS_VERSION
from trainers.data.image_hashes import IMAGE_FACTS
from trainers.training.adapters import PARTS
from trainers.training.checkpoints import (
    Checkpoint,
    FoundCheckpoint,
    QuietPeriod,
    find_complete_checkpoints,
    scored_at,
    total_steps,
)
from trainers.training.job import Job

log = logging.getLogger(__name__)

CHECKED_PAIRS: Final = 48
"""Pairs on which a checkpoint's use of images is checked."""


def train_then_eval(
    recipe: PreferenceRecipe,
    place: Path | OneOfSeeds,
    judge: Judge,
    *,
    settings: EvalSettings | None = None,
    early_stop: Sequence[str] = (),
    layout: Layout | None = None,
    remote_code: bool = False,
    server: ServerHost | None = None,
) -> Outcome:
    """Do, or finish, the run of `recipe` in a folder; `settings.limit` bounds instructions (or rows read), too. One of
    several seeds has its board, its data and a merged base in the folder of all.

    `settings`: how models are scored, but for the recipe's [scoring]. `early_stop` names probes, "task" or
    "task.metric": training ends once one is significantly worse than the base's. `layout`: processes that train, while
    this one does all else; None = this one trains. `remote_code`: code of the recipe's models may run. `server`: all is
    scored behind it, after the training unless it is to be kept while that runs or scores are needed earlier.
    InputError for a probe that the recipe's tasks don't have; RunError.
    """
    out, shared = (place, None) if isinstance(place, Path) else (place.out, place.shared)
    tasks = tasks_of(recipe)
    probes = [probe(name, tasks) for name in early_stop]
    check_judge(judge, tasks)
    limit = None if settings is None else settings.limit
    asked = scored_by(recipe, settings or EvalSettings())
    check_alone(asked[1], None if server is None else server.settings)
    recipe = limited(recipe, limit)
    with ExitStack() as held:
        held.enter_context(hold_run_folder(out))
        held.enter_context(server or nullcontext())
        register()
        recipe = settle_engine(keep_own_scoring(out, recipe), remote_code=remote_code)
        claim(out, recipe, limit)
        folders, asked = (out, out if shared is None else shared.out), scored_by(recipe, asked[0])
        run = _Run(recipe, folders, judge, tasks, probes, asked, remote_code=remote_code, server=server)
        held.enter_context(run.host)
        given = judge, tasks, run.seconds, asked[0]
        prepare: Callable[[], TrainingData] = (
            partial(prepare_training_data, recipe, out / "data", *given, remote_code=remote_code)
            if shared is None
            else partial(shared.prepare, recipe, *given, remote_code=remote_code)
        )
        read = None if recipe.data is not None else prepare()  # takes little, and tells whether there is any step
        if limit is None:
            check_steps(recipe, most_pairs(recipe.data) if recipe.data is not None else len(read.pairs if read else ()))
        run.score_base()
        data = read or prepare()
        run.announce_scoring(data)
        arms, stop = run.train_arms(data, layout)
        failed = run.score_checkpoints(arms)
        checkpoints = run.list_checkpoints(arms)
        checks = run.check_last_checkpoint(checkpoints, data)
        return run.conclude(checkpoints, data, checks, stop, failed)


class _Run:
    """One run and its steps, in the order in which they are called."""

    def __init__(
        self,
        recipe: PreferenceRecipe,
        folders: tuple[Path, Path],
        judge: Judge,
        tasks: Sequence[TaskSpec],
        probes: Sequence[Metric],
        asked: tuple[EvalSettings, EngineConfig],
        *,
        remote_code: bool,
        server: ServerHost | None,
    ) -> None:
        self.recipe, self.tasks, self.probes = recipe, tasks, probes
        self.out, self.common = folders  # of this training, and of what others may share with it
        self.seconds = StageTimer(self.out / "seconds.json")
        self.board = Board(self.common / "board")
        self.host = EngineHost(self.out / "servers", self._find_adapters)  # all checkpoints are adapters of one base
        self.scoring = Scoring(
            board=self.board,
            tasks=tasks,
            judge=judge,
            state=self.out / "watch",
            settings=asked[0],
            engine=asked[1],
            host=self.host,
            timed=self.seconds,
            adapters=self._find_adapters,
            after_training=self._waits(server, asked[1]),
            server=server,
            remote_code=remote_code,
        )
        self.scored_before = {entry.model for entry in self.board.entries()}

    @cached_property
    def base(self) -> ModelSpec:
        """The model that is trained, with all its files on this machine."""
        return self.scoring.fetch(self.recipe.base)

    def score_base(self) -> None:
        """Score the model that is trained, if it can be trained."""
        base_to_train(self.base, self.recipe.base)
        asked = as_asked(self.base, self.scoring.settings.protocol)
        check_switch(chat_template_of(asked), self.scoring.engine.thinking, self.recipe.base)
        if self.scoring.after_training:
            log.info("%s: scored after the training, on the server of its checkpoints", self.recipe.base)
            return
        self._score(self.base, self.recipe.base)
        self.scoring.drop()  # the pool and training need the memory
        for alarm in find_probes_without_value(Scores(self.board), self.probes, [self.recipe.base]):
            log.info("%s", alarm.words)

    def announce_scoring(self, data: TrainingData) -> None:
        """Say what the scoring of the checkpoints will take, before the first of them is there."""
        recipe, training, scoring = self.recipe, self.recipe.training, self.scoring
        planned = planned_scoring(training, total_steps(len(data.pairs), training), control=self._has_control)
        done = {
            entry.model for entry in self.board.entries() if Path(entry.model).parent in (self.out, self.out / CONTROL)
        }
        if planned.count is not None and len(done) >= planned.count:
            return
        if planned.count is not None and done:
            left = planned.count - len(done)
            planned = replace(planned, count=left, how=f"{planned.how}, {len(done)} are on the board, {left} are left")
        rate = rate_of(recipe.base, self.tasks, [self.board])
        read = not scoring.after_training  # to score the base
        cost = cost_of_scoring(self.tasks, scoring.judge, scoring.settings, rate, read=read)
        log.info("%s", cost.words(planned))

    def train_arms(self, data: TrainingData, layout: Layout | None) -> tuple[dict[str, Job], Stop | None]:
        """Train, and the control: the jobs by arm, and why training was stopped early."""
        recipe = self.recipe
        if self.scoring.settings.limit is not None:
            recipe = with_short_warm_up(recipe, len(data.pairs))
        self.scoring.drop()  # a judge that was served has rated the data
        job = Job(
            recipe=recipe,
            out=self.out,
            **base_to_train(*merge_adapter(self.base, recipe.base, self.common)),
            preferences=data.pairs,
            held_out=data.held_out,
            bad_rows=data.bad_rows,
            reference=None if self.common == self.out else self.common / "reference",
            note={"data": data.digest, "leaks": dict(data.leaks)},
        )
        folder = self.common / "data"
        pairs = folder / "pairs.jsonl" if recipe.data else None
        processes = None if layout is None else Processes(layout=layout, pairs=pairs, images=folder / IMAGE_FACTS)
        stop = train_and_score(job, recipe.trainer, self.scoring, self.probes, self.seconds, processes)
        arms = {recipe.trainer: job}
        if self._has_control and stop is None:  # a control of other length would tell nothing
            arms["sft"] = _control_of(job)
            train_and_score(arms["sft"], "sft", self.scoring, [], self.seconds, processes)
        return arms, stop

    def score_checkpoints(self, arms: dict[str, Job]) -> dict[str, str]:
        """Score the checkpoints that are not on the board yet; names of those whose scoring failed, and why."""
        failed: dict[str, str] = {}
        if self.scoring.after_training:
            self._score(self.base, self.recipe.base)
        for job in arms.values():
            for found in _find_to_score(job):
                name = found.path.as_posix()
                try:
                    self._score(self.scoring.fetch(found.path), name)
                except JudgeError:
                    raise  # the next one would have no judge either
                except Exception as error:  # the other checkpoints do not depend on it
                    self.host.drop()
                    failed[name] = describe_error(error)
                    log.info("%s: not scored (%s); the same command tries it again", name, failed[name])
        if self.scoring.server is not None:
            self.scoring.server.end()
        return failed

    def list_checkpoints(self, arms: dict[str, Job]) -> list[Checkpoint]:
        """The checkpoints of all arms, those too that were scored and removed by the trainer since."""
        checkpoints = []
        for arm, job in arms.items():
            steps = {found.path: found.step for found in _find_to_score(job)}
            for entry in self.board.entries():
                path = Path(entry.model)
                number = path.name.removeprefix("checkpoint-")
                if path.parent == job.out and number.isdecimal():
                    steps[path] = int(number)
            by_step = sorted(steps.items(), key=lambda item: item[1])
            checkpoints += [Checkpoint(path=path, step=step, arm=arm) for path, step in by_step]
        if not self._of_main_arm(checkpoints):
            raise RunError(f"{self.out}: training by {self.recipe.trainer!r} left no checkpoint")
        return checkpoints

    def check_last_checkpoint(self, checkpoints: Sequence[Checkpoint], data: TrainingData) -> ImageUseChecks | str:
        """Whether the last checkpoint uses its images, or why that is not known."""
        last = self._of_main_arm(checkpoints)[-1]
        with self.seconds(STAGE):
            checks = self._check_image_use(last, data)
        if isinstance(checks, str):
            log.info("%s: not looked at (%s)", last.path, checks)
        self.host.drop()
        return checks

    def conclude(
        self,
        checkpoints: list[Checkpoint],
        data: TrainingData,
        checks: ImageUseChecks | str,
        stop: Stop | None,
        failed: dict[str, str],
    ) -> Outcome:
        """Tests, selection and alarms."""
        recipe, scores, training_log = self.recipe, Scores(self.board), read_log(self.out)
        kept = [one.path.as_posix() for one in self._of_main_arm(checkpoints) if one.path.is_dir()]
        own = {recipe.base, *(checkpoint.path.as_posix() for checkpoint in checkpoints)}
        entries = [entry for entry in scores.entries if entry.model in own]
        shares = map(share_lost, entries)
        return Outcome(
            out=self.out,
            board=self.board.folder,
            recipe=recipe,
            base=recipe.base,
            checkpoints=checkpoints,
            entries=entries,
            verdicts=panel_verdicts(scores, recipe, self.tasks, checkpoints, looks=1 if stop is None else stop.looks),
            selection=select_checkpoint(scores, kept, headlines(self.tasks), self.recipe.base),
            data=data,
            log=training_log,
            alarms=self._find_alarms(scores, training_log, checkpoints, checks),
            checks=checks,
            stop=stop,
            seconds=dict(self.seconds.seconds),
            lost=max([data.failed, *shares]),
            failed=failed,
        )

    def _find_alarms(
        self,
        scores: Scores,
        training_log: list[LogLine],
        checkpoints: Sequence[Checkpoint],
        checks: ImageUseChecks | str,
    ) -> list[Alarm]:
        names = [checkpoint.path.as_posix() for checkpoint in self._of_main_arm(checkpoints)]
        known = None if isinstance(checks, str) else checks
        found = find_alarms(
            training_log,
            total=max((line.step for line in training_log), default=0),
            held_out=known.use.accuracy["image"][0] / 100 if known is not None and known.held_out else None,
            lengths=lengths_of(scores, self.recipe.base, names[-1], self.tasks),
        )
        idle = [find_idle_training(out) for out in (self.out, self.out / CONTROL)]
        found += [alarm for alarm in idle if alarm is not None and alarm not in found]
        found += find_probes_without_value(scores, self.probes, [self.recipe.base, *names])
        return found + (find_check_alarms(known) if known is not None else [])

    def _check_image_use(self, last: Checkpoint, data: TrainingData) -> ImageUseChecks | str:
        """The checks, kept in `checks.json`; or why they can't be made."""
        held_out = draw_pairs(data.held_out, CHECKED_PAIRS, self.recipe.seed)
        pairs = held_out or draw_pairs(data.pairs, CHECKED_PAIRS, self.recipe.seed)
        if not pairs:
            return "no pair has an image and a rejected answer"
        if not last.path.is_dir():
            return "the trainer has removed it"
        spec, path = self.scoring.fetch(last.path), self.out / "checks.json"
        key = {**identity_of(spec), "data": data.digest, "pairs": len(pairs), "tokens": TOKENS_VERSION}
        if path.exists():
            try:
                held = parse_json(path.read_text(encoding="utf-8"))
                if held["of"].items() <= key.items():  # earlier versions knew fewer facts
                    return ImageUseChecks.from_json(held["found"])
            except (ValueError, KeyError, TypeError, AttributeError):
                pass  # of another version
        try:
            found = check_image_use(spec, self.base, pairs, self.host, held_out=bool(held_out))
        except (
            Exception
        ) as error:  # scores and verdicts do not depend on it; a model family may refuse what others take
            return describe_error(error, 200)
        atomic_write_text(path, json.dumps({"of": key, "found": found.to_json()}, indent=1))
        return found

    @property
    def _has_control(self) -> bool:
        return self.recipe.control and self.recipe.trainer != "sft"

    def _waits(self, server: ServerHost | None, engine: EngineConfig) -> bool:
        """Whether a server is started once, after the training: it would hold memory that training needs."""
        starts = (engine.is_served and not engine.engine_url) if server is None else not server.settings.keep
        if not starts:
            return False
        return not self.probes and self.recipe.training.keep is None  # these need scores while training waits

    def _find_adapters(self) -> Adapters:
        """What a server must be ready for to have this run's adapters."""
        lora = self.recipe.training.lora
        rank = 0 if lora is None else 2 * lora.r if lora.init in PARTS else lora.r
        folders = [path for out in (self.out, self.out / CONTROL) for path in out.glob("checkpoint-*")]
        return needs_of_usable(folders) | Adapters(rank=rank)

    def _score(self, spec: ModelSpec, name: str) -> None:
        if self.scoring.score(spec, name) == "on board" and name in self.scored_before:
            log.info("%s: already on the board, skipped", name)

    def _of_main_arm(self, checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
        return [checkpoint for checkpoint in checkpoints if checkpoint.arm == self.recipe.trainer]


def _find_to_score(job: Job) -> list[FoundCheckpoint]:
    """The checkpoints of an arm that are to be scored, and the last one there is: training may have ended early."""
    found = find_complete_checkpoints(job.out, QuietPeriod(0))[0]
    training = job.recipe.training
    return [one for one in found if one.of is None or one.step in scored_at(one.of, training) or one is found[-1]]


def limited(recipe: PreferenceRecipe, limit: int | None) -> PreferenceRecipe:
    """The recipe with at most so many instructions, or rows read."""
    if limit is None:
        return recipe
    source = recipe.preferences
    if isinstance(source, Data):
        rows = min(limit, source.instructions)
        return recipe.model_copy(update={"data": source.model_copy(update={"instructions": rows})})
    rows = min(limit, source.limit or limit)
    return recipe.model_copy(update={"dataset": source.model_copy(update={"limit": rows})})


def _control_of(job: Job) -> Job:
    """The SFT arm: the same rows, batches and steps; only its last checkpoint is scored."""
    training = job.recipe.training.model_copy(update={"checkpoints": 1, "save_steps": None})
    return replace(job, recipe=job.recipe.model_copy(update={"training": training}), out=job.out / CONTROL)
