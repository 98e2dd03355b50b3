"""Texts made safe to print in LaTeX."""

from typing import Final

from support.markdown import line

_WRITTEN: Final = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "[": r"{[}",  # else an optional argument, behind the end of a row
        "*": r"{*}",
        "–": "--",
        "—": "---",
        "…": r"\ldots{}",
        "↑": r"$\uparrow$",
        "↓": r"$\downarrow$",
        "→": r"$\rightarrow$",
        "▲": r"$\blacktriangle$",
        "▼": r"$\blacktriangledown$",
        "△": r"$\triangle$",
        "≈": r"$\approx$",
        "≠": r"$\neq$",
        "≤": r"$\leq$",
        "≥": r"$\geq$",
        "±": r"$\pm$",
        "×": r"$\times$",
        "✗": r"$\times$",
        "†": r"$\dagger$",
        "‡": r"$\ddagger$",
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    }
)


def latex_characters() -> dict[str, str]:
    """How each character that LaTeX would not show as it is has to be written."""
    return {chr(code): written for code, written in _WRITTEN.items()}


def escape_latex(text: str) -> str:
    """`text` on one line, shown as it is, never as a command."""
    return line(text).translate(_WRITTEN)
