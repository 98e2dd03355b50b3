"""Whether the server of a checkpoint must be told to begin a prompt with the checkpoint's first token.

A processor puts it before a rendered chat template that has none (LLaVA-1.5's); servers add nothing to a template
unless they are told to.
"""

from typing import Any

from harness.engine.chat_template import ChatTemplate
from harness.models.spec import ModelSpec
from support.bounded import call_bounded
from support.errors import ModelError, one_line


def lacks_first_token(spec: ModelSpec, template: ChatTemplate) -> bool:
    """True if the processor of a checkpoint, whose files are here, puts a first token before a question that its
    chat template has rendered without one. ModelError where that can't be told."""
    from transformers import AutoTokenizer

    import harness.models.qwen_vl  # noqa: F401  which makes its tokenizer known

    if template.text is None:
        return False
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(spec.local_folder), trust_remote_code=spec.remote_code)
        asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is there a dog?"}]}]
        render = {"chat_template": template.text, "add_generation_prompt": True, "tokenize": False}
        rendered = call_bounded(lambda: tokenizer.apply_chat_template(asked, **render))
    except (RuntimeError, OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{spec.name}: its prompts can't be laid out: {one_line(error)[:300]}") from None
    return adds_first_token(tokenizer, rendered)


def adds_first_token(tokenizer: Any, rendered: str) -> bool:
    """True if a tokenizer begins a rendered prompt with its first token, which the prompt itself does not begin
    with."""
    first = tokenizer.bos_token_id
    if first is None or rendered.startswith(tokenizer.bos_token):
        return False
    ids, bare = (tokenizer(rendered, add_special_tokens=add)["input_ids"] for add in (True, False))
    return bool(ids[:1] == [first] and bare[:1] != [first])
