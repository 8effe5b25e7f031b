"""An error after every call of a script, one run for each: what the tests of inboxes and of phones do alike."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

from notifier.edge.redis import ReplyError
from notifier.ports import NotMarked
from tests.contract.world import RedisWorld

World = TypeVar("World", bound=RedisWorld)
Arm: TypeAlias = Callable[[], Awaitable[object]]
Run: TypeAlias = tuple[object, dict[str, Any], bool]  # the answer, what is left, and whether the error came

COUNTING = """
local left = tonumber(redis.call('GET', 'fault') or -1)
local function counted(result, name)
  left = left - 1
  if left == 0 then
    redis.call('DEL', 'fault')
    error({err = 'ERR injected after ' .. name})
  end
  return result
end
local function counted_call(...) return counted(redis.call(...), (...)) end
local function counted_pcall(...) return counted(redis.pcall(...), (...)) end
"""


def inject(text: str) -> str:
    """Raises after as many calls as the key `fault` says, once."""
    return COUNTING + text.replace("redis.call", "counted_call").replace("redis.pcall", "counted_pcall")


async def again(call: Callable[[], Awaitable[object]]) -> object:
    """What every caller does when a script has failed."""
    try:
        return await call()
    except (ReplyError, NotMarked) as error:
        assert "injected" in str(error)
        return await call()


async def interrupted(
    world: World, act: Callable[[World, Arm], Awaitable[object]], after: int
) -> tuple[object, bool]:
    """An act with an error after so many calls (0: none), counted once it says so. Its answer, and whether the error
    came."""

    async def arm() -> None:
        if after:
            await world.calls.call("SET", "fault", after)

    answer = await act(world, arm)
    return answer, after > 0 and not await world.calls.call("DEL", "fault")


async def interrupted_everywhere(run: Callable[[int], Awaitable[Run]]) -> int:
    """Each run with an error ends as the one without; how many there are."""
    expected_answer, expected, _ = await run(0)
    after = 0
    while True:
        answer, found, came = await run(after + 1)
        assert (after + 1, answer) == (after + 1, expected_answer)
        assert found.keys() == expected.keys()
        for part, value in found.items():
            assert (after + 1, part, value) == (after + 1, part, expected[part])
        if not came:
            return after
        after += 1
