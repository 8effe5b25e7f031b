"""The rules of the state as a model: together they keep every promise, and each of them is needed."""

from __future__ import annotations

import pytest

from tests.model.explorer import TRACES, Found, execute, explore, parse, schedule, shrink, told
from tests.model.rules import RULES, Broken, Rules

ENOUGH = 4_000  # schedules; each rule that chance can need is missed within a third of them


def said(found: Found | None, rules: Rules) -> str:
    return told(shrink(found, rules)) if found else ""


def test_all_rules_together_keep_every_promise() -> None:
    found = explore(Rules(), first=0, count=ENOUGH)
    assert found is None, said(found, Rules())


@pytest.mark.parametrize("rule", RULES)
def test_without_a_rule_a_promise_is_broken(rule: str) -> None:
    found = explore(Rules(rule), first=0, count=ENOUGH)
    assert found is not None, f"nothing shows that it is needed: {RULES[rule]}"
    assert execute(found.steps, Rules(), found.routed) is None, "with the rule the same steps are harmless"


@pytest.mark.parametrize("rule", TRACES)
def test_a_known_trace_needs_its_rule_alone(rule: str) -> None:
    routed, steps = TRACES[rule]
    assert execute(parse(steps), Rules(), routed) is None
    assert isinstance(execute(parse(steps), Rules(rule), routed), Broken)


def test_a_schedule_is_always_the_same() -> None:
    assert schedule(7, 60) == schedule(7, 60) != schedule(8, 60)


def test_a_trace_becomes_short() -> None:
    found = explore(Rules("fence"), first=0, count=ENOUGH)
    assert found is not None
    short = shrink(found, Rules("fence"))
    assert len(short.steps) < len(found.steps)
    broken = execute(short.steps, Rules("fence"), short.routed)
    assert broken is not None
    assert (broken.promise, broken.how) == (short.promise, short.how)
    for at in range(len(short.steps)):
        fewer = short.steps[:at] + short.steps[at + 1 :]
        other = execute(fewer, Rules("fence"), short.routed)
        assert other is None or other.promise != short.promise, f"step {at} is not needed"


def test_a_rule_that_does_not_exist_is_refused() -> None:
    with pytest.raises(AssertionError, match="no such rule"):
        Rules("fense")


@pytest.mark.campaign
@pytest.mark.parametrize("part", range(8))
def test_many_more_schedules_are_clean(part: int) -> None:
    """Longer ones, too: what needs many steps is seldom met in short ones."""
    found = explore(Rules(), first=1_000_000 * (part + 1), count=50_000, length=(60, 120)[part % 2])
    assert found is None, said(found, Rules())
