"""What a package index shows of the README: its text, with links and pictures that lead to the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

PAGES = "https://github.com/pyrolvm/pyrolvm/blob/main"
PICTURES = "https://raw.githubusercontent.com/pyrolvm/pyrolvm/main"


def absolute(text: str) -> str:
    """Markdown whose relative links, and of pictures the files themselves, are absolute."""
    text = re.sub(r"(!\[[^\]]*\]\()(?!\w+:|#)", rf"\1{PICTURES}/", text)
    return re.sub(r"(?<!!)(\[[^\]\[]*\]\()(?!\w+:|#)", rf"\1{PAGES}/", text)


class Readme(MetadataHookInterface):
    """Fills in ``readme``."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Called by hatchling for wheels, sdists and editable installs."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(text)}
