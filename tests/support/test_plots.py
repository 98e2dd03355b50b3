"""How every plot looks, and that the same figures are the same files."""

from itertools import islice
from pathlib import Path

from support.plots import line_styles, new_figure, plot_style, save_figure


def test_series_differ_without_their_colours_and_the_paper_is_white(tmp_path: Path) -> None:
    drawn = list(islice(line_styles(), 7))
    assert len({style["color"] for style in drawn}) == 7
    assert len({(style["marker"], style["linestyle"]) for style in drawn}) == 7
    for suffix in ("png", "svg"):
        files = []
        for name in "ab":
            with plot_style():
                figure = new_figure(figsize=(2, 1))
                axis = figure.subplots()
                axis.plot([1, 2], [1, 2], **drawn[0])
                axis.set_title("$x_{$")
                save_figure(figure, tmp_path / f"{name}.{suffix}")
            files.append((tmp_path / f"{name}.{suffix}").read_bytes())
        assert files[0] == files[1]
    assert "fill: #ffffff" in (tmp_path / "a.svg").read_text()
