"""A judge of open weights, whose server is started for the run once the judge is first asked.

judge = ServedJudge(fetch(find("qwen2.5-vl-7b")), ServerHost(settings=ServerSettings(), folder=run / "servers"),
                    ledger=Ledger(run / "ledger.sqlite"))
evaluate(candidate, tasks, judge)       # the candidate has answered, and is out of the memory, when it starts
"""

from collections.abc import Callable, Iterable
from typing import Any

from harness.models.spec import ModelSpec
from harness.serving.model_server import known_of, name_behind_server
from harness.serving.server_host import ServerHost
from tasks.judges.addresses import NO_KEY, Server, server_of
from tasks.judges.ledger import Ledger
from tasks.judges.openai import OpenAIJudge
from tasks.judges.protocol import GREEDY, Question, Replies, Sampling
from tasks.judges.settings import JudgeSettings

_NOT_STARTED = "http://127.0.0.1/v1"


class ServedJudge(OpenAIJudge):
    """See the module's docstring. The ledger knows it by its weights, and by what decides its replies beside them, not
    by its address, which is another one each time."""

    def __init__(
        self, spec: ModelSpec, host: ServerHost, *, ledger: Ledger, settings: JudgeSettings | None = None
    ) -> None:
        self.spec, self.host = spec, host
        self.makes_room: Callable[[], object] = lambda: None
        """Called before the server is started: lets go of a model in this process's memory."""
        known = ", ".join(f"{name} {value}" for name, value in sorted(known_of(spec, host.settings).items()))
        server = _server_at(_NOT_STARTED, spec.name)
        super().__init__(name_behind_server(spec), ledger=ledger, url=server, settings=settings, known_as=known)

    def ask_many(
        self, questions: Iterable[Question], sampling: Sampling = GREEDY, *, label: str = "", repeat: int = 0
    ) -> Replies:
        """The replies in the order asked, from the ledger where they are there; None where a question has none."""
        self._reach()
        with self.host.asked():
            return super().ask_many(questions, sampling, label=label, repeat=repeat)

    def _reach(self) -> None:
        """Have the server answer. ServerError."""
        if not self.host.is_running:
            self.makes_room()
        url = self.host.reach(self.spec).url
        if url is not None and url != self.client.server.url:
            self.client.route.server = _server_at(url, self.spec.name)


def _server_at(url: str, name: str) -> Server:
    return server_of(url, name=name, role="judge", key=NO_KEY)


def make_room_for(judge: Any, makes_room: Callable[[], object]) -> None:
    """Before a judge's server is started for the run, this lets go of the memory; for other judges, nothing is done."""
    if isinstance(judge, ServedJudge):
        judge.makes_room = makes_room
