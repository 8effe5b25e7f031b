"""Rules and prefixes: which answer a token gets, how often."""

from __future__ import annotations

import msgspec
import pytest

from notifier.sandbox.script import PREFIXES, RULES, Rule, Script


def test_a_rule_holds_for_its_times_and_its_tokens() -> None:
    script = Script()
    script.add(Rule("apns", token="ab", status=503, times=2))
    taken = [script.take("apns", token) for token in ("ab1", "cd1", "ab2", "ab3")]
    assert [rule is not None for rule in taken] == [True, False, True, False]
    assert script.take("fcm", "ab") is None
    assert script.standing()[0].met == 2


def test_a_rule_can_let_the_first_ones_pass() -> None:
    script = Script()
    script.add(Rule("fcm", action="close", skip=2, times=1))
    assert [script.take("fcm", "t") is not None for _ in range(4)] == [False, False, True, False]


def test_the_first_rule_wins_and_can_be_taken_back() -> None:
    script = Script()
    first = script.add(Rule("apns", status=500))
    script.add(Rule("apns", status=503))
    assert (script.take("apns", "t") or Rule("apns")).status == 500
    assert script.clear(first)
    assert not script.clear(first)
    assert (script.take("apns", "t") or Rule("apns")).status == 503
    assert script.clear()
    assert script.take("apns", "t") is None


@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_prefix_can_begin_an_apns_token_and_stands_for_both(prefix: str) -> None:
    script = Script()
    int(prefix, 16)
    assert script.take("apns", prefix + "0" * 58) is PREFIXES[prefix].apns
    assert script.take("fcm", prefix + ":token") is PREFIXES[prefix].fcm
    assert script.take("oauth", prefix) is None


def test_rules_are_bounded() -> None:
    script = Script()
    for _ in range(RULES):
        script.add(Rule("apns"))
    with pytest.raises(ValueError, match="DELETE /script"):
        script.add(Rule("apns"))


@pytest.mark.parametrize(
    "bad", ['{"provider": "x"}', '{"provider": "apns", "status": 99}', '{"provider": "apns", "stat": 1}']
)
def test_a_bad_rule_is_refused(bad: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(bad, type=Rule)
