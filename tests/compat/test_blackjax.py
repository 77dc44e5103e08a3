"""What is expected of BlackJAX."""

from __future__ import annotations

import pytest

from pyrolvm._compat import blackjax


def test_nothing_is_wrong_with_the_installed_release() -> None:
    assert blackjax.fault() is None


def test_a_release_without_a_part_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(blackjax.installed(), "meads_adaptation")
    assert "has no meads_adaptation" in str(blackjax.fault())
