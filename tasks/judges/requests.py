"""What is sent to a server of chat completions, and what names it in the ledger."""

import base64
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from PIL import Image

from support.images import PromptImage, encoded, image_digest
from tasks.judges import prices
from tasks.judges.capabilities import LIMITS

NAMED_BY_COMPLETION_TOKENS: Final = ("o1", "o3", "o4", "gpt-5")
"""Beginnings of models whose limit has its newer name in the ledger's keys. Never change them: replies paid for earlier
are found by it."""
SENT_AS_THEY_ARE: Final = ("PNG", "JPEG", "WEBP", "GIF")
"""Formats of image files that servers read."""
KEPT: Final = 16
"""How many images are held as they are sent: all questions about an image are asked one after the other."""


@dataclass(frozen=True)
class Request:
    """One question as it is sent, and what names it in the ledger."""

    body: Mapping[str, Any]
    key: str
    """sha256 of all that determines the reply."""
    tokens: int
    """Of the prompt, about."""
    label: str = ""
    """The task that the ledger books it for."""
    max_tokens: int | None = None
    """The limit of a reply."""
    cut_is_whole: bool = False
    """Whether the limit is so short that it ends replies which are whole."""
    before: str = ""
    """The key that versions gave it which did not name the server; empty: they gave it none."""

    @property
    def limit_sent(self) -> int | None:
        """The limit of a reply that the body has, under either name."""
        return next((self.body[name] for name in LIMITS if name in self.body), None)

    @property
    def room(self) -> int:
        """Tokens for thoughts in it, on top of those of the reply."""
        return max(0, (self.limit_sent or 0) - self.max_tokens) if self.max_tokens is not None else 0


@dataclass(frozen=True, kw_only=True)
class NotAsked:
    """Stands where a question can't be sent."""

    why: str


def key_of(facts: Mapping[str, Any]) -> str:
    """The ledger's key. Never change the facts or their spelling: replies paid for earlier are found by it."""
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def messages_of(system: str | None, content: Any) -> list[dict[str, Any]]:
    """A user's turn, after a system message where there is one."""
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": content}]


def limit_of(model: str, tokens: int) -> dict[str, int]:
    """The setting that limits a reply to so many tokens, as names in the ledger spell it (`Parameters` has the name
    that is sent)."""
    return {"max_completion_tokens" if model.startswith(NAMED_BY_COMPLETION_TOKENS) else "max_tokens": tokens}


@dataclass(frozen=True, kw_only=True)
class ImagePart:
    """An image in a message."""

    part: Mapping[str, Any]
    named: Mapping[str, Any]
    """What names it in the ledger."""
    tokens: int
    """About."""


def image_part(model: str, image: Image.Image, detail: str, longest_side: int | None) -> ImagePart:
    """An image as it is sent; it is encoded once for the questions about it. OSError."""
    encoded = _encode(_Shown(digest=_digest(image), image=image), longest_side)
    return ImagePart(
        part={"type": "image_url", "image_url": {"url": encoded.url, "detail": detail}},
        named={"sha256": encoded.sha256, "kind": encoded.kind, "detail": detail},
        tokens=prices.image_tokens(model, *encoded.size, detail),
    )


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """An image, and what tells all that it is sent as."""

    digest: str
    image: Image.Image = field(compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class _Encoded:
    url: str
    sha256: str
    kind: str
    size: tuple[int, int]
    """Width and height in pixels."""


def _digest(image: Image.Image) -> str:
    if isinstance(image, PromptImage):
        return image_digest(image)
    # A PNG has these of a picture's notes, beside its pixels.
    return f"{image_digest(image)} {[image.info.get(name) for name in ('icc_profile', 'transparency')]}"


@lru_cache(maxsize=KEPT)
def _encode(shown: _Shown, longest_side: int | None) -> _Encoded:
    """The image's own file if servers can read it and it need not shrink, else a PNG."""
    data, kind, size = _write(shown.image, longest_side)
    url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return _Encoded(url=url, sha256=hashlib.sha256(data).hexdigest(), kind=kind, size=size)


def _write(image: Image.Image, longest_side: int | None) -> tuple[bytes, str, tuple[int, int]]:
    """The bytes of an image file, its format, and its size in pixels."""
    width, height = image.size
    if longest_side is None or max(width, height) <= longest_side:
        if isinstance(image, PromptImage) and image.format in SENT_AS_THEY_ARE:
            return encoded(image), str(image.format).lower(), (width, height)
    else:
        scale = longest_side / max(width, height)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = image.resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue(), "png", image.size
