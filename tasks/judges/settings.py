"""How a server of chat completions is asked: what `--judge-set NAME=VALUE` may set, and what holds for any model."""

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any, Literal

from support.errors import SettingError
from tasks.judges.prices import read_price


@dataclass(frozen=True, kw_only=True)
class ClientSettings:
    """How calls to a server are made; none of it changes a reply."""

    timeout: float = 120.0
    """Seconds for one call, to the last byte of its reply."""
    attempts: int = 8
    """Tries of one question, after which it stays without a reply."""
    patience: float = 300.0
    """Seconds without any reply after which "too many requests" counts as a try."""
    longest_wait: float = 60.0
    """Most seconds that a server may ask to wait before the next try."""
    redirects_to: str | None = None
    """Hosts, parted by commas, to which the server may redirect beside itself; no key is sent there."""
    concurrency: int = 16
    """Most calls at once; fewer where the server says that they are too many."""
    requests_per_minute: float | None = None
    """Most calls a minute."""
    tokens_per_minute: float | None = None
    """Most tokens a minute, of prompts and replies."""
    retry_unread: bool = False
    """Ask again, and pay again, where a reply that was paid for can't be read."""
    price: str | None = None
    """IN,OUT: US dollars for a million tokens of prompts and of replies, in place of any list's; recorded."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in MAY_BE_ZERO and isinstance(value, (int, float)) and value <= 0:
                raise SettingError(f"{field.name} = {value}: must be more than 0")
        if self.price is not None:
            read_price(self.price, "price")

    @property
    def told_price(self) -> tuple[float, float] | None:
        """`price` as two numbers."""
        return None if self.price is None else read_price(self.price, "price")


MAY_BE_ZERO = (
    *("retry_unread", "seed", "structured", "temperature", "thinking_tokens", "enable_thinking"),
    *("min_p", "presence_penalty", "frequency_penalty"),
)


@dataclass(frozen=True, kw_only=True)
class ImageSettings(ClientSettings):
    """Beside how calls are made: how images are sent."""

    detail: Literal["auto", "low", "high"] = "auto"
    """How closely the model looks at images; recorded."""
    image_side: int | None = None
    """Longest side of an image in pixels, larger ones are scaled down; none: as it is; recorded."""
    seed: int | None = 0
    """What makes a server repeat a reply; none: not sent."""

    def images_in_words(self) -> str:
        """How images are sent, for entries; empty if as usual."""
        if self.detail == "auto" and self.image_side is None:
            return ""
        return f"detail {self.detail}, longest side {self.image_side or 'as it is'}"


@dataclass(frozen=True, kw_only=True)
class JudgeSettings(ImageSettings):
    """How a judge behind a server is asked."""

    structured: bool = False
    """Ask for JSON in which reasons and verdict are apart; counts as another judge."""
    reasoning_effort: str | None = None
    """How much a model that thinks does so, such as low; counts as another judge."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reasoning_effort is not None and not self.reasoning_effort.strip():
            raise SettingError(f"reasoning_effort = {self.reasoning_effort!r}: is empty")

    def asked(self) -> dict[str, tuple[Any, str]]:
        """Parameters of a request that the user asked for: value, and how it was set."""
        return self.changed()

    def changed(self, given: Collection[str] = ()) -> dict[str, tuple[Any, str]]:
        """Those that are otherwise than usual, or named as `given`."""
        usual = JudgeSettings()
        found = {"seed": self.seed, "detail": self.detail, "reasoning_effort": self.reasoning_effort}
        set_here = {
            name: value
            for name, value in found.items()
            if value is not None and (value != getattr(usual, name) or name in given)
        }
        words = {name: (value, f"{name} = {value}") for name, value in set_here.items()}
        return words | ({"response_format": (True, "structured = true")} if self.structured else {})

    def in_words(self) -> str:
        """What was set of all that changes replies, for what is kept of them; empty if nothing was."""
        side = [] if self.image_side is None else [f"image_side = {self.image_side}"]
        return ", ".join([*(how for _, how in self.changed().values()), *side])


@dataclass(frozen=True, kw_only=True)
class GivenSettings(JudgeSettings):
    """Settings of which some were given, be they the usual ones: the model must take those, too."""

    given: tuple[str, ...] = ()
    """Their names."""

    def asked(self) -> dict[str, tuple[Any, str]]:
        """See `JudgeSettings`."""
        return self.changed(self.given)
