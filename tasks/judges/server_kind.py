"""What a server calls itself, where what it takes depends on it.

kind_of(server)     # "vllm", "sglang", "llamacpp", "library" (Ollama's); "" where it does not say
"""

from typing import Final

from tasks.judges.addresses import Server
from tasks.judges.bodies import read_json
from tasks.judges.chat_client import run_in_thread

PATIENCE: Final = 5.0
"""Seconds to wait for a server's list of models."""


def kind_of(server: Server) -> str:
    """The owner of the models that a server lists (`owned_by`); empty where it does not say: whether it is there at
    all, the calls find out."""
    return run_in_thread(_ask_for_owner(server))


async def _ask_for_owner(server: Server) -> str:
    import openai

    async with server.connect(PATIENCE) as connection:
        try:
            found = read_json((await connection.models.with_raw_response.list()).content)
        except (openai.OpenAIError, ValueError):
            return ""
    models = found.get("data") if isinstance(found, dict) else None
    owners = [model.get("owned_by") for model in models if isinstance(model, dict)] if isinstance(models, list) else []
    return next((owner[:100] for owner in owners if isinstance(owner, str)), "")
