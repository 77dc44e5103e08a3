"""Looks up every link of the built site that leads into itself or into this repository: ``make docs`` runs it.

python docs/check_links.py build/site

A page, a picture or a heading that is not there is an error. Links to elsewhere are only counted; ``make links`` asks for them.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
SOURCE = "https://github.com/pyrolvm/pyrolvm/"
"""Where the repository is: what follows is ``blob/main/PATH``, ``edit/main/PATH`` and the like."""
COLAB = "https://colab.research.google.com/github/pyrolvm/pyrolvm/"
"""What opens a notebook of the repository, by the same words."""


class Page(HTMLParser):
    """What a page links to, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collects; ``name`` is an anchor of links alone."""
        for key, value in attrs:
            if value is None:
                continue
            if key == "id" or (key == "name" and tag == "a"):
                self.anchors.add(value)
            elif key in ("href", "src") and tag in ("a", "img", "script", "link", "source", "iframe"):
                self.links.add(value)


def broken(site: Path) -> tuple[list[str], int, int]:
    """The links that lead nowhere, in words; how many were looked up, and how many lead elsewhere."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    found, known, elsewhere = [], 0, 0
    for path, page in pages.items():
        for link in sorted(page.links):
            parts = urlsplit(link)
            if link.startswith((SOURCE, COLAB)):
                inside = unquote(parts.path).partition("/main/")[2]
                known += 1
                if inside and not ROOT.joinpath(inside).exists():
                    found.append(f"{path.relative_to(site)}: {link}: there is no such file in the repository")
            elif parts.scheme or parts.netloc:
                elsewhere += parts.scheme in ("http", "https")
            else:
                known += 1
                target = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
                target = target / "index.html" if target.is_dir() else target
                if not target.is_file():
                    found.append(f"{path.relative_to(site)}: {link}: there is no such page")
                elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                    found.append(f"{path.relative_to(site)}: {link}: the page has no such heading")
    return found, known, elsewhere


if __name__ == "__main__":
    wrong, looked, outside = broken(Path(sys.argv[1]).resolve())
    print(
        *wrong,
        f"{looked:,} links into the site and its repository, {len(wrong)} broken; {outside:,} lead elsewhere",
        sep="\n",
    )
    sys.exit(bool(wrong))
