"""Scores models one after the other, and puts each on a board as soon as it is done.

scorer = ModelScorer(tasks=registry().expand(["scenes"]), judge=ScenesJudge(), board=Board(Path("runs/eval/board")))
scorer.score(find("scenes-base"), "scenes-base")
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Self

from harness.engine.config import EngineConfig
from harness.evaluation.entries import Evaluation
from harness.evaluation.eval_settings import EvalSettings, check_asking, on_board, with_seed
from harness.evaluation.evaluate import evaluate
from harness.evaluation.protocol import as_asked
from harness.models.fetch import cached, fetch
from harness.models.served_identity import end_run, identified, is_of_one_run
from harness.models.spec import ModelSpec
from harness.serving.adapters import Adapters
from harness.serving.engine_host import EngineHost
from harness.serving.model_server import known_of
from harness.serving.served_judge import make_room_for
from harness.serving.server_host import ServerHost, end_servers
from leaderboards.board.board import Board
from support.errors import HarnessError, Need, NotReady
from tasks.judges.protocol import Judge
from tasks.registry import TaskSpec

log = logging.getLogger(__name__)

COUNTED: Final = {"from the store": "from earlier runs", "cut": "stopped early", "out of memory": "times out of memory"}


@dataclass(kw_only=True)
class ModelScorer:
    """Scores models on the same tasks; the base of adapters stays in memory."""

    tasks: Sequence[TaskSpec]
    judge: Judge | None
    settings: EvalSettings = field(default_factory=EvalSettings)
    engine: EngineConfig = field(default_factory=EngineConfig)
    board: Board | None = None
    """Gets the scores; models that it has complete scores of are skipped. None: nothing is kept."""
    server: ServerHost | None = None
    """Serves the weights, which are scored through it."""
    adapters: Adapters = field(default_factory=Adapters)
    """What the server is to be ready for, beside the model that is scored."""
    ledger: Path | None = None
    """File that keeps the replies of a served model; None: the default file."""
    fresh: bool = False
    """Ask the model again, ignoring the board and the response cache."""

    def __post_init__(self) -> None:
        check_asking(self.settings.protocol, self.engine, self.tasks)
        folder = Path("runs") if self.board is None else self.board.folder.parent
        self._host = EngineHost(folder / "servers", lambda: self.adapters)
        make_room_for(self.judge, self._host.drop)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """End the server of an engine; the model in memory goes with the scorer."""
        self._host.drop()

    def score(self, spec: ModelSpec, name: str, engine: EngineConfig | None = None) -> Evaluation | None:
        """Score one model under this name, with other engine settings if given; None if the board has its scores."""
        settings, engine, run = self.settings, engine or self.engine, self._name_run(name)
        spec = as_asked(replace(fetch(spec), fresh=self.fresh), settings.protocol)
        spec = identified(spec, self.ledger, run=run, fresh=self.fresh)
        engine = with_seed(engine, settings, served=self.server is not None or spec.backend == "openai")
        engine = engine if self.server is not None else self._host.choose(engine, spec)
        known = spec
        if self.server is not None:
            serving = self.server.settings
            known = replace(spec, digests=known_of(spec, serving) | serving.version_installed())
        asked = (known, name, self.tasks, self.judge, settings, engine)
        if self.board is not None and not self.fresh and on_board(self.board, *asked):
            log.info(f"{name}: already on the board in {self.board.folder}, nothing to do")
            return None
        log.info(f"{name}: scoring on {', '.join(task.name for task in self.tasks)}")
        if self.server is None and not engine.is_served:
            end_servers()  # a judge's, which has the memory that this model needs
        reached = spec if self.server is None else self.server.reach(spec, self.adapters)
        with self._host.asked() if self.server is None else self.server.asked():
            evaluation = evaluate(
                reached,
                self.tasks,
                self.judge,
                settings,
                engine=engine,
                name=name,
                ledger=self.ledger,
                load=self._host.load,
            )
        if self.server is not None:
            started, self.server.seconds = {"server start": self.server.seconds}, 0.0
            evaluation = replace(evaluation, seconds={**evaluation.seconds, **started})
        if self.board is not None:
            self.board.add(evaluation.entries, evaluation.samples)
        if is_of_one_run(spec) and not evaluation.may_pass:  # else the same command goes on with it
            end_run(self.ledger, run)
            log.info(
                f"{name}: its server does not say which model it has: these answers are not used again"
                " (--model-version NAME tells it from others, and keeps them)"
            )
        _log_time(evaluation)
        return evaluation

    def require(self, needs: Sequence[Need], models: Sequence[tuple[str, ModelSpec]]) -> None:
        """NotReady where things are missing, unless the board has the scores of all these models, with their names."""
        if needs and not all(self._is_done(spec, name) for name, spec in models):
            raise NotReady(needs)

    def _is_done(self, spec: ModelSpec, name: str) -> bool:
        """Whether the board has the scores of a model whose weights are here."""
        if self.board is None or self.fresh or not cached(spec):
            return False
        try:
            spec = as_asked(replace(fetch(spec), fresh=self.fresh), self.settings.protocol)
            engine = with_seed(self.engine, self.settings, served=spec.backend == "openai")
            engine = self._host.choose(engine, spec)
            return on_board(self.board, spec, name, self.tasks, self.judge, self.settings, engine)
        except HarnessError:
            return False

    def _name_run(self, name: str) -> str:
        """What the same command does again after a kill."""
        folder = str(self.board.folder.resolve()) if self.board is not None else ""
        what = [folder, name, sorted(task.name for task in self.tasks), self.settings.limit]
        return json.dumps(what)


def _log_time(evaluation: Evaluation) -> None:
    """Log what questions shared, and where the time went."""
    counts, seconds = evaluation.counts, sum(evaluation.seconds.values())
    if evaluation.shared:
        log.info(f"shared: {evaluation.shared}")
    if counts.get("asked"):
        parts = [f"{counts['asked']} questions", f"{counts.get('answered', 0)} answered by the model"]
        parts += [f"{counts[name]} {what}" for name, what in COUNTED.items() if counts.get(name)]
        log.info(f"{', '.join(parts)}; {counts['asked'] / seconds:.1f} a second")
    spent = sorted(evaluation.seconds.items(), key=lambda item: -item[1])
    log.info("time: " + ", ".join(f"{stage} {took:.1f} s" for stage, took in spent if took >= 0.05))
