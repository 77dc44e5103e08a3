import pytest

from pyrolvm._base.errors import ArgumentError
from pyrolvm._base.verdict import Reason, Verdict, worst

FINE = Reason("trusted", "k-hat is fine", {"khat": 0.2})
ODD = Reason("doubtful", "R-hat is high", {"rhat": 1.03})
BAD = Reason("failed", "a chain <b>never</b> moved")


@pytest.mark.parametrize(
    ("reasons", "status"),
    [((), "trusted"), ((FINE,), "trusted"), ((FINE, ODD), "doubtful"), ((ODD, BAD, FINE), "failed")],
)
def test_a_verdict_is_its_worst_reason(reasons, status):
    assert Verdict.of(reasons).status == status
    assert worst(reason.status for reason in reasons) == status


def test_a_verdict_cannot_be_better_than_its_reasons():
    with pytest.raises(ArgumentError, match="Fix:"):
        Verdict("trusted", (ODD,))


def test_an_unknown_status_is_refused():
    with pytest.raises(ArgumentError, match=r"'fine'.*Fix:"):
        Reason("fine", "nothing")


def test_joining_verdicts_keeps_the_worst_and_each_reason_once():
    both = Verdict.of([FINE, ODD], ["draw more"]).and_also(Verdict.of([BAD, FINE], ["draw more", "start elsewhere"]))
    assert both.status == "failed"
    assert [reason.text for reason in both.reasons] == [FINE.text, ODD.text, BAD.text]
    assert both.next_steps == ("draw more", "start elsewhere")


def test_text_html_and_dict_say_the_same():
    verdict = Verdict.of([FINE, BAD], ["start elsewhere"])
    assert str(verdict).splitlines()[0] == "failed"
    assert "start elsewhere" in str(verdict)
    page = verdict._repr_html_()
    assert "<b>never</b>" not in page and "&lt;b&gt;never" in page
    assert verdict.as_dict()["reasons"][0] == {"status": "trusted", "text": "k-hat is fine", "figures": {"khat": 0.2}}
    assert verdict.figures == {"khat": 0.2}
