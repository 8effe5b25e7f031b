"""What a storm prints about a stream that does not empty names who holds what."""

from __future__ import annotations

import pytest

from tests.chaos.diagnosis import diagnosis, holders
from tests.servers import Valkey


@pytest.fixture
def stuck(valkey: Valkey, redis_url: str) -> Valkey:
    """An entry that `left` has read and never finished; a shard that nobody reads; one letter."""
    valkey.call("XADD", "notifier:events", "7-1", "event", "{}")
    valkey.call("XGROUP", "CREATE", "notifier:events", "notifier", "0")
    valkey.call("XREADGROUP", "GROUP", "notifier", "left-1", "STREAMS", "notifier:events", ">")
    valkey.call("XADD", "events:{1}", "9-1", "v", "1", "event", "{}")
    valkey.call("XADD", "dead:{1}:schema", "*", "raw", "{")
    valkey.call("SET", "slot:left-1", "abc", "PX", 60_000)
    return valkey


@pytest.mark.parametrize("tag", ["{notifier:events}", "{0}"])
def test_it_says_who_holds_what(stuck: Valkey, tag: str) -> None:
    stuck.call("SET", f"lease:{tag}", "abc", "PX", 60_000)
    said = "\n".join(diagnosis(stuck))
    assert "notifier:events: 1 entries, read by b'abc' (left), for" in said
    assert "[[b'7-1', b'left-1'," in said, "the pending entry and its consumer"
    assert "events:{1}: 1 entries, read by nobody" in said
    assert "NOGROUP" in said
    assert "dead:{1}:schema: 1 letters" in said


def test_a_holder_that_has_no_name_any_more_is_shown_as_it_is(stuck: Valkey) -> None:
    stuck.call("SET", "lease:{0}", "gone", "PX", 60_000)
    assert holders(stuck) == {b"abc": "left"}
    assert "read by b'gone' (in no slot)" in "\n".join(diagnosis(stuck))
