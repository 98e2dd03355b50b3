"""The judge of rendered scenes under the name that it has now, wherever files and commands have its earlier one."""

from typing import Final, TypeVar

SCENES: Final = "scenes"
"""The judge that compares answers with scene graphs, on this machine."""

EARLIER: Final = "exact"
"""What that judge was called before; `--exact` is a way to decode."""

T = TypeVar("T")


def current_judge(name: T) -> T | str:
    """A judge's name as it is now; all but the earlier one as they are."""
    return SCENES if name == EARLIER else name
