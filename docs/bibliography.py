"""Collects the references of all docstrings: the site's page of them is made by it when the site is built."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PLACE = "<!-- bibliography -->"
"""Where the list goes on its page."""
FOLDERS = ("pyrolvm", "guides", "models")
LINK = re.compile(r"https?://(?:[^\s;,()]|\([^\s()]*\))*[^\s;,.()]")


@dataclass
class Entry:
    """One publication.

    Attributes:
        text: authors, title and place, as the docstring has it, without its link.
        link: where it is; empty where no docstring says so.
        modules: the files that name it, from the top of the repository.
    """

    text: str
    link: str
    modules: set[str] = field(default_factory=set)


def sections(root: Path) -> Iterator[tuple[str, str]]:
    """Each file with the text of a section of references in it."""
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            for node in ast.walk(ast.parse(text)) if "References:" in text else ():
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                    _, found, rest = (ast.get_docstring(node) or "").partition("References:\n")
                    if found:
                        lines = rest.splitlines()
                        end = next((k for k, line in enumerate(lines) if line and not line.startswith(" ")), len(lines))
                        yield path.relative_to(root).as_posix(), "\n".join(lines[:end])


def split(section: str) -> list[tuple[str, str]]:
    """The entries of a section, each as its text and its link.

    An entry ends at a semicolon, at a link that ends a line, or where a sentence ends and the next line is not further in.
    """
    joined: list[str] = []
    for line in section.splitlines():
        text = line.strip()
        if not text:
            continue
        inside = len(line) - len(line.lstrip()) > 4
        ended = not joined or (
            bool(re.search(r"(?:[.;)]|https?://\S+)$", joined[-1])) and not joined[-1].endswith("et al.")
        )
        if joined and (inside or not ended or LINK.match(text)):
            joined[-1] += f" {text}"
        else:
            joined.append(text)
    parts = [part for entry in joined for part in re.split(r"; (?=[A-Z])", entry)]
    found = []
    for part in parts:
        link = LINK.search(part)
        text = (part[: link.start()] if link else part).strip(" ,;.")
        if text:
            found.append((text, link.group() if link else ""))
    return found


def entries(root: Path) -> list[Entry]:
    """All publications by author, each once, with every module that names it."""
    found: dict[str, Entry] = {}
    for module, section in sections(root):
        for text, link in split(section):
            key = link.rstrip("/").lower() or re.sub(r"\W+", "", text).lower()
            entry = found.setdefault(key, Entry(text, link))
            if len(text) > len(entry.text):
                entry.text = text
            entry.modules.add(module)
    return sorted(found.values(), key=lambda entry: re.sub(r"\W+", "", entry.text).lower())


def page(root: Path, source: str) -> str:
    """The list in Markdown; modules link to ``source``."""
    lines = []
    for entry in entries(root):
        words = f"{entry.text}. <{entry.link}>" if entry.link else f"{entry.text}."
        named = ", ".join(f"[{Path(module).stem}]({source}/{module})" for module in sorted(entry.modules))
        lines.append(f"- {words}\n  <br>in {named}")
    return "\n".join(lines)
