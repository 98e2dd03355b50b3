"""What a server calls itself, where what it takes depends on it.

kind_of(server, "my-judge")     # "vllm", "sglang", "llamacpp", "library" (Ollama's); "" where it does not say
"""

from typing import Final

from tasks.judges.addresses import Server
from tasks.judges.bodies import read_json
from tasks.judges.chat_client import run_in_thread

PATIENCE: Final = 5.0
"""Seconds to wait for a server's list of models."""


def kind_of(server: Server, model: str) -> str:
    """Whose a model is by its server's list (`owned_by`), or the first where it is not listed; empty where that is not
    said: whether the server is there at all, the calls find out."""
    return run_in_thread(_ask_for_owner(server, model))


async def _ask_for_owner(server: Server, model: str) -> str:
    import openai

    async with server.connect(PATIENCE) as connection:
        try:
            found = read_json((await connection.models.with_raw_response.list()).content)
        except (openai.OpenAIError, ValueError):
            return ""
    models = found.get("data") if isinstance(found, dict) else None
    listed = [each for each in models if isinstance(each, dict)] if isinstance(models, list) else []
    listed.sort(key=lambda each: each.get("id") != model)
    return next((owner[:100] for each in listed if isinstance(owner := each.get("owned_by"), str)), "")
