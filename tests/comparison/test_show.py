"""Plots and the HTML page: they draw, escape every name, and load nothing from elsewhere."""

import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.lines import Line2D

from pyrolvm._base.errors import ArgumentError, StoreError, UnknownNameError
from pyrolvm._base.verdict import Verdict
from pyrolvm._check.compare import compare
from pyrolvm._check.compare.plots import KINDS
from pyrolvm._report.style import Sheet, sheet
from pyrolvm._report.webpage import in_notebook

EVIL = "<script>alert(1)"  # a DataTree allows no slash in a name
EVIL_PLACE = "</td><script>alert(2)</script>"


@pytest.fixture(scope="module")
def comparison(fake):
    rng = np.random.default_rng(5)

    def sites(shape, scale=1.0):
        return {
            EVIL: scale * rng.normal(size=shape),
            "tau": np.exp(scale * rng.normal(size=shape)),
            "$x_1^2$": rng.standard_cauchy(size=shape),
            "k": rng.poisson(3, size=shape),
            "one": np.ones(shape),
            "theta": scale * rng.normal(size=(*shape, 2)),
        }

    dims, coords = {"theta": ["place"]}, {"place": ['"><img src=x onerror=alert(1)>', EVIL_PLACE]}
    names = {"dims": dims, "coords": coords}
    nuts = fake.Fake(fake.chains(rng, sites((4, 200)), **names), seconds={"run": 2.0})
    mine = fake.fit(rng, sites((1, 500), 0.6), converged=False, guide="<b>guide</b>", **names)
    return compare(
        {"<i>vi</i>": mine, "flow & co": fake.fit(rng, sites((1, 500)), converged=True, **names), "nuts": nuts}
    )


class Page(HTMLParser):
    """Collects tags and every address that a browser would fetch."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.handlers = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [
            value for name, value in attrs if name.split(":")[-1] in ("src", "href", "action", "data", "srcset")
        ]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def test_the_page_is_self_contained_and_escaped(comparison, tmp_path):
    text = comparison.to_html(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == text
    page = Page(text)
    assert "script" not in page.tags and "b" in page.tags and "link" not in page.tags and not page.handlers
    assert page.addresses and all(address.startswith(("data:image/png;base64,", "#")) for address in page.addresses)
    assert not re.search(r"url\((?!#)|@import", text)
    assert EVIL not in text and "&lt;script&gt;alert(1)" in text
    assert EVIL_PLACE not in text and "&lt;/td&gt;&lt;script&gt;alert(2)" in text
    assert "<i>vi</i>" not in text and "<b>guide</b>" not in text
    assert page.tags.count("svg") + page.tags.count("img") == 6 == text.count("<figure>")
    for heading in (
        "Methods",
        "Estimates",
        "Pictures",
        "Verdicts",
        "How to read this",
        "Each posterior by itself",
        "Where this comes from",
    ):
        assert f"<h2>{heading}</h2>" in text


def test_the_notebook_view_is_escaped_and_keeps_its_styles_to_itself(comparison):
    text = comparison._repr_html_()
    assert "script" not in Page(text).tags and "i" not in Page(text).tags
    rules = re.search(r"<style[^>]*>(.*?)</style>", text, re.S).group(1)
    assert all(
        selector.startswith(".pyrolvm") for rule in rules.split("}")[:-1] for selector in rule.split("{")[0].split(",")
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_plot_draws(comparison, kind, tmp_path):
    figure = comparison.plot(kind, path=tmp_path / f"{kind}.png")
    assert (tmp_path / f"{kind}.png").stat().st_size > 5000
    assert figure.axes


def test_plots_leave_no_global_state(comparison):
    import matplotlib.pyplot as plt

    before = dict(plt.rcParams)
    comparison.plot()
    assert not plt.get_fignums() and dict(plt.rcParams) == before


def test_a_figure_shows_itself_in_a_notebook(comparison):
    assert comparison.plot("energy")._repr_png_().startswith(b"\x89PNG")


def test_quantities_can_be_chosen(comparison):
    assert len(comparison.plot("marginals", quantities=["tau", "k"]).axes) == 2
    with pytest.raises(UnknownNameError, match="'tau'"):
        comparison.plot("marginals", quantities=["tua"])


def test_what_cannot_be_drawn_is_said(fake):
    rng = np.random.default_rng(0)
    one, two = (fake.draw_tree({"x": rng.normal(size=(2, 100))}) for _ in range(2))
    bare = compare({"a": one, "b": two}, reference="b")
    for kind in ("losses", "energy", "pairs"):
        with pytest.raises(ArgumentError, match="Fix:"):
            bare.plot(kind)
    with pytest.raises(UnknownNameError, match="Fix:"):
        bare.plot("pie")
    assert "<h2>Pictures</h2>" in bare.to_html()


@pytest.mark.parametrize("write", ["plot", "to_html", "to_json"])
def test_a_file_that_cannot_be_written_is_said_and_nothing_is_left(comparison, tmp_path, write):
    there = {
        "plot": lambda path: comparison.plot(path=path),
        "to_html": comparison.to_html,
        "to_json": comparison.to_json,
    }
    with pytest.raises(StoreError, match=r"nowhere/page.png' cannot be written: No such file.*Fix:"):
        there[write](tmp_path / "nowhere" / "page.png")
    (tmp_path / "taken").mkdir()
    with pytest.raises(StoreError, match=r"taken' cannot be written: .*Fix:"):
        there[write](tmp_path / "taken")
    there[write](str(tmp_path / "page"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["page", "taken"]


def test_a_format_that_pictures_do_not_have_is_said(comparison, tmp_path):
    with pytest.raises(ArgumentError, match=r"no format '\.xyz'.*Fix: .*\.png"):
        comparison.plot(path=tmp_path / "page.xyz")
    comparison.plot(path=tmp_path / "page.PDF")
    assert [file.name for file in tmp_path.iterdir()] == ["page.PDF"]


def test_what_a_notebook_shows_is_read_on_white_and_on_black() -> None:
    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    text = in_notebook("")
    assert "background:#" not in text
    colours = set(re.findall(r"--\w+:(#[0-9a-f]{6})", text))
    assert len(colours) >= 4
    for colour in colours:
        contrasts = 1.05 / (light(colour) + 0.05), (light(colour) + 0.05) / (light("#111111") + 0.05)
        assert min(contrasts) >= 3.3, colour
    assert "color:#333" not in Verdict.of([])._repr_html_()


def test_a_figure_is_drawn_once_as_matplotlib_would_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[object] = []
    whole = Line2D.draw
    monkeypatch.setattr(Line2D, "draw", lambda self, renderer: (drawn.append(self), whole(self, renderer))[1])

    def made() -> tuple[Sheet, list[Line2D]]:
        figure = sheet(5.0, 3.0)
        axes = figure.subplots(1, 2)
        lines = [one.plot(np.arange(5) * 1e4)[0] for one in axes]
        axes[0].set_ylabel("a long\nlabel")
        return figure, lines

    def pixels(save: Callable[..., object]) -> np.ndarray[Any, Any]:
        buffer = io.BytesIO()
        save(buffer, format="png")
        buffer.seek(0)
        return np.asarray(imread(buffer))

    (ours, lines), (theirs, _) = made(), made()
    engine = ours.get_layout_engine()
    first = pixels(ours.savefig)
    assert [drawn.count(line) for line in lines] == [1, 1]
    np.testing.assert_array_equal(first, pixels(lambda *a, **k: Figure.savefig(theirs, *a, **k)))
    assert ours.get_layout_engine() is engine
    ours.set_size_inches(9.0, 3.0)
    before = ours.axes[0].get_position().x0
    ours.savefig(io.BytesIO())
    assert ours.axes[0].get_position().x0 < before  # placed anew
    ours.set_layout_engine("none")
    ours.savefig(io.BytesIO())
