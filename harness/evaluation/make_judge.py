"""Makes a judge from its name and settings, and tells whether a judge can rate what it is wanted for."""

from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Final

from support.errors import Need, NoJudgeError, NoKeyError, SettingError
from support.installed import describe, installed, load
from support.judge_names import SCENES, current_judge
from tasks.judges import prices
from tasks.judges.addresses import OPENAI, Server, server_of
from tasks.judges.capabilities import capabilities_of
from tasks.judges.ledger import LEDGER, Ledger
from tasks.judges.protocol import Judge
from tasks.judges.providers import find_place, has_prefix, usual_address
from tasks.judges.settings import JudgeSettings
from tasks.registry import TaskSpec

JUDGES: Final = "harness.judges"
"""Entry points of packages with judges: a function without arguments, or a class, that gives one."""
OPEN_JUDGE: Final = "--judge Qwen/Qwen2.5-VL-7B-Instruct --judge-serve vllm"
"""The documented way for those without a key: open weights, served for the run. Never taken without being named."""
NAME_ONE: Final = f"name a model by --judge (of open weights: {OPEN_JUDGE})"


def make_judge(
    name: str,
    *,
    url: str | None = None,
    key: str | None = None,
    ledger: Path | None = None,
    budget: float | None = None,
    batch: bool = False,
    settings: JudgeSettings | None = None,
    known_as: str | None = None,
) -> Judge:
    """The judge "scenes" of scenes tasks, one of an installed package, or a model of an OpenAI-compatible server
    (`PROVIDER:MODEL`: of that provider's), with `batch` through the Batch API; `key` names the environment variable
    with its server's key, `known_as` its server in the ledger. SettingError for a setting that would not act,
    NoKeyError where no key is set and no server named."""
    from tasks.judges.batch import BatchJudge
    from tasks.judges.openai import OpenAIJudge

    settings, name = settings or JudgeSettings(), current_judge(name)
    if name == SCENES:
        given = {"url": url, "key": key, "budget": budget, "batch": batch, "set": settings != JudgeSettings()}
        return _make_scenes(given | {"known-as": known_as})
    if (point := installed(JUDGES).get(name)) is not None:
        given = {"url": url, "key-env": key, "budget": budget, "batch": batch, "known-as": known_as}
        return _make_installed(point, given | {"set": settings != JudgeSettings()})
    kind = ""
    try:
        place = find_place(name)
        if place is not None and url is not None:
            raise SettingError(f"--judge-url: would not act: {name!r} names its server; leave out one of them")
        if place is None:
            server = server_of(url, name=name, role="judge", variable=key)
        else:
            kind = name.removesuffix(place.model)
            name, variable = place.model, key or place.variable
            server = server_of(place.url, name=name, role="judge", variable=variable, what=place.what)
    except NoKeyError as error:
        hint = f" (without a key: {OPEN_JUDGE}; of scenes: {SCENES})" if "name its server" in str(error) else ""
        raise NoKeyError(f"{error}{hint}") from None
    kept = Ledger(ledger or LEDGER, when_written=True)  # a run that lacks something leaves no file
    tariff = prices.Tariff(model=name, url=server.url, told=settings.told_price)
    if budget is not None and tariff.cost(1, 1, served=kept.last_served(name, server.shown)) is None:
        raise SettingError(
            f"--judge-budget: no price of {name!r} is known; give it by --judge-price IN,OUT (US dollars for a million"
            f" tokens of prompts and of replies), or in a file named by {prices.OVERRIDE}"
        )
    judge = BatchJudge if batch else OpenAIJudge
    if known_as is not None and not known_as.strip():
        raise SettingError(f"--judge-known-as {known_as!r}: is empty")
    more: dict[str, Any] = {"budget": budget, "settings": settings, "known_as": known_as}
    asked = {parameter: value for parameter, (value, _) in settings.asked().items()}
    kind = kind or _find_kind(server, name, asked | ({"batch": True} if batch else {}))
    return judge(name, kind=kind, url=server, ledger=kept, **more)


def judge_or_estimator(name: str, lacking: list[Need], **given: Any) -> Judge:
    """The judge of `make_judge`; where its key is not set, one for estimates alone, and `lacking` gets the key."""
    try:
        return make_judge(name, **given)
    except NoKeyError as error:
        why = str(error).removeprefix(f"judge {name!r}: ").removeprefix(f"{name!r}: ")
        lacking.append(Need(what=f"key of judge {name!r}", why="it is not set", command=why, is_key=True))
    provider, _, model = name.partition(":") if has_prefix(name) else ("", "", name)
    url = given.get("url") or usual_address(provider) or OPENAI
    return make_judge(model, **{**given, "url": url, "key": None})


def _make_scenes(given: Mapping[str, Any]) -> Judge:
    from tasks.scenes.judge import ScenesJudge

    if idle := [f"--judge-{option}" for option, value in given.items() if value]:
        raise SettingError(f"judge {SCENES!r}: {', '.join(idle)} would not act: no server is asked")
    return ScenesJudge()


def _make_installed(point: EntryPoint, given: Mapping[str, Any]) -> Judge:
    """The judge of an installed package: what its entry point names gives it when it is called."""
    if idle := [f"--judge-{option}" for option, value in given.items() if value]:
        raise SettingError(f"judge {point.name!r}: {', '.join(idle)} would not act: it is that of {point.value}")
    judge = load(point)()
    if not isinstance(getattr(judge, "model", None), str) or not callable(getattr(judge, "ask_many", None)):
        raise SettingError(f"{describe(point)}: gives no judge (model, ask_many) but {type(judge).__name__}")
    found: Judge = judge
    return found


def _find_kind(server: Server, model: str, asked: Mapping[str, Any]) -> str:
    """What the server calls itself, where only that may tell whether what is asked for acts; else empty."""
    from tasks.judges.server_kind import kind_of

    takes = capabilities_of(model, server.known_host)
    unknown = any(takes.setting(parameter, value) is None for parameter, value in asked.items())
    return kind_of(server, model) if unknown else ""


def check_judge(judge: Judge | None, tasks: Iterable[TaskSpec], *, official_prompts: bool = False) -> None:
    """Before anything is generated: NoJudgeError or SettingError for judged tasks that this judge can't rate."""
    judged = [task for task in tasks if task.judged]
    if judge is None and judged:
        names = ", ".join(task.name for task in judged)
        raise NoJudgeError(f"{names}: needs a judge and none is set; {NAME_ONE}")
    can_rate = getattr(judge, "can_rate", None)
    if judge is None or can_rate is None:
        return
    if names := ", ".join(task.name for task in judged if not can_rate(task.official_judge)):
        raise SettingError(f"judge {judge.model!r}: can't rate {names}; {NAME_ONE}")
    if judged and official_prompts and judge.model == SCENES:
        raise SettingError(f"judge {SCENES!r}: reads our own prompts only; leave out --official-prompts")
