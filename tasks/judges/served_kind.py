"""Whether a judge asks a server, told without importing what asks servers."""

import sys
from typing import TYPE_CHECKING, TypeGuard

if TYPE_CHECKING:
    from tasks.judges.openai import OpenAIJudge


def asks_server(judge: object) -> "TypeGuard[OpenAIJudge]":
    """Whether it is an OpenAIJudge, which is none before that class is imported."""
    module = sys.modules.get("tasks.judges.openai")
    return module is not None and isinstance(judge, module.OpenAIJudge)
