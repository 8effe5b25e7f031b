"""The way out in memory, with a clock that the test drives: lanes, breakers, retries, guards, bugs of others."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred

from notifier.core.gate import Gate, GateRule
from notifier.core.inbox import Join
from notifier.core.lanes import BURIALS, Lane
from notifier.core.model import Delivery, Device, Outcome
from notifier.core.outcomes import NOT_SENT, UNANSWERED, not_sent, unanswered
from notifier.core.push import Style
from notifier.edge.memory import MemoryInbox
from notifier.edge.memory_push import MemoryDevices, MemoryDue, MemoryPushes
from notifier.metrics import Metrics
from notifier.ports import PushesRead, PushesSettled, PushRequest, Unavailable
from notifier.sending import BATCH, Due, Looks, Sender, labels
from tests.contract.phones import APNS, DOWN, FCM, GONE, OK, WRONG, FakeProvider, phone, steps
from tests.contract.world import ISSUED, NOWHERE, MemoryWorld, Reader, event, people
from tests.test_pipeline import now

U, V = people(2)
SUSPECT = Outcome("drop_token", "apns", 400, "BadDeviceToken", None, "token", "suspect")
WRONG_KEY = Outcome("config_error", "apns", 403, "InvalidProviderToken", None, "credential")


class NoDevices(MemoryDevices):
    """Redis is away when a device is to be written."""

    def __init__(self) -> None:
        pass

    async def restore(self, user: str, device: Device) -> bool:
        raise Unavailable("Redis is away")


class House:
    """One Redis in memory, people with phones, and one process that sends. Its clock stands unless `pass_`."""

    def __init__(self) -> None:
        self.world = MemoryWorld()
        self.world.use(cap=1_000)
        self.server = self.world.server
        self.reader = Reader(self.world)
        self.metrics = Metrics({"dead_letters": BURIALS, **labels([APNS, FCM])})
        self.said: list[str] = []
        self.due = Due(MemoryDue(self.server, 0, lambda seconds: Deferred()), self.metrics, self.clock)
        self.waits: list[float] = []
        self.events = 0

    def clock(self) -> float:
        return self.server.now / 1000

    def pass_(self, seconds: float) -> None:
        self.server.now += int(seconds * 1000)

    def sender(
        self, provider: Any, lane: Lane = APNS, name: str = "p", rule: GateRule | None = None,
        looks: Looks | None = None,
    ) -> Sender:  # fmt: skip
        log = MemoryPushes(self.server, self.world.rules, 0, lane, lambda: name, lambda stream, s: Deferred())
        gate = Gate(rule or GateRule(), self.clock())
        return Sender(
            log, lane, gate, provider, MemoryDevices(self.server, self.world.rules), looks or Looks(),
            self.metrics, self.clock, lambda: 0.5, self.said.append,
        )  # fmt: skip

    def enlist(self, user: str, *devices: Device) -> None:
        for device in devices:
            assert now(self.world.devices().restore(user, device))

    def comment(self, *to: str, thing: str = "1") -> str:
        self.events += 1
        name = f"e{self.events}"
        raw = event("comment", to=to, eid=name, at=self.server.now, thing=thing)
        now(self.reader.deliver(raw))
        return name

    def left(self, lane: Lane = APNS) -> int:
        return len(self.server.lane(f"push:{{0}}:{lane}").entries)

    def waiting(self) -> list[int]:
        """In how many seconds each of those that wait comes due."""
        return sorted((one.at - self.server.now) // 1000 for one in self.server.waiting.values())

    def letters(self) -> list[str]:
        return sorted(dead.reason for letters in self.server.letters.values() for dead in letters)


def turn(sender: Sender | Due, most: int = 30) -> None:
    """Until there is nothing more to do now."""
    for _ in range(most):
        if not now(sender.once()):
            return
    raise AssertionError("it does not come to rest")


def test_one_provider_down_leaves_the_other_flat_and_loses_nothing() -> None:
    """APNs is down for 20 s while ten comments a second come for somebody with both kinds of phone."""
    house = House()
    house.enlist(U, phone("a"), phone("b", FCM))
    apple, google = FakeProvider(lambda _: DOWN), FakeProvider()
    lanes = house.sender(apple), house.sender(google, FCM)
    wanted = set()
    for tick in range(200):
        name = house.comment(U, thing=str(tick))
        wanted.add(name)
        turn(house.due)
        for sender in lanes:
            turn(sender)
        assert google.sent[-1].notification == name, "the other lane waits for nobody"
        assert len(google.sent) == tick + 1
        house.pass_(0.1)
    assert len(apple.sent) < 40, "who is down is not hammered"
    assert house.metrics.push_breaker["demo apns production"] > 0
    assert house.metrics.push_breaker["demo fcm production"] == 0
    assert house.left(FCM) == 0
    apple.answer, arrived = (lambda _: OK), len(apple.sent)
    for _ in range(2_000):
        house.pass_(1)
        turn(house.due)
        turn(lanes[0], 300)
    assert {one.notification for one in apple.sent[arrived:]} == wanted
    assert len(apple.sent) - arrived == len(wanted), "nothing came twice"
    assert house.letters() == []
    assert (house.left(), house.waiting()) == (0, [])
    assert house.metrics.push_breaker["demo apns production"] == 0


def test_while_the_breaker_is_open_nothing_is_read() -> None:
    house = House()
    house.enlist(U, phone())
    provider = FakeProvider(lambda _: DOWN)
    sender = house.sender(provider)
    for n in range(10):
        house.comment(U, thing=str(n))
        now(sender.once())
    assert len(provider.told()) == 5
    assert house.left() == 5
    house.pass_(2)
    provider.answer = lambda _: OK
    now(sender.once())
    assert len(provider.told()) == 1, "one tries whether it is back"
    turn(sender)
    assert len(provider.told()) == 4


def test_of_many_devices_one_tries_the_lane_and_the_others_wait() -> None:
    house = House()
    house.enlist(U, *(phone(f"p{n}") for n in range(8)))
    provider = FakeProvider(lambda _: DOWN)
    sender = house.sender(provider)
    house.comment(U)
    now(sender.once())
    assert len(provider.told()) == 8
    house.pass_(1)
    house.comment(U)
    turn(sender)
    assert len(provider.told()) == 1
    assert len(house.waiting()) == 16
    assert house.left() == 0


def test_retries_have_a_budget() -> None:
    house = House()
    house.enlist(U, *(phone(f"p{n}") for n in range(50)))
    rule = GateRule(most=10, trickle=0)
    provider = FakeProvider(lambda _: Outcome("retry", "apns", 429, "TooManyRequests", None, "token"))
    sender = house.sender(provider, rule=rule)
    house.comment(U)
    turn(sender)
    assert len(provider.told()) == 50
    house.pass_(400)
    turn(house.due)
    turn(sender)
    assert len(provider.told()) == 10
    assert max(house.waiting()) < 400
    assert sum(wait <= 20 for wait in house.waiting()) == 40


def test_a_wrong_set_up_forgets_no_token() -> None:
    house = House()
    house.enlist(U, *(phone(f"p{n}") for n in range(50)))
    house.enlist(V, *(phone(f"q{n}") for n in range(50)))
    provider = FakeProvider(lambda _: SUSPECT)
    sender = house.sender(provider)
    house.comment(U, V)
    for _ in range(400):
        turn(sender)
        house.pass_(10)
        turn(house.due)
    assert len(now(house.world.devices().of(U))) == 50
    assert len(now(house.world.devices().of(V))) == 50
    provider.answer = lambda _: OK
    assert set(house.letters()) <= {"suspended", "expired"}
    assert house.letters() or house.waiting() or house.left()


def test_while_the_guard_suspends_nothing_is_sent() -> None:
    house = House()
    house.enlist(U, *(phone(f"p{n}") for n in range(50)))
    house.enlist(V, msgspec.structs.replace(phone("v"), environment="sandbox"))
    provider = FakeProvider(lambda _: SUSPECT)
    sender = house.sender(provider)
    house.comment(U)
    turn(sender)
    assert house.metrics.push_suspended["demo apns"] == 1
    provider.told()
    provider.answer = lambda _: OK
    house.comment(U, V)
    turn(sender)
    assert provider.told() == [phone("v").id], "the other environment is well"
    assert all(wait >= 60 for wait in house.waiting())


def test_a_key_that_is_wrong_waits_to_be_mended() -> None:
    house = House()
    house.enlist(U, phone())
    provider = FakeProvider(lambda _: WRONG_KEY)
    sender = house.sender(provider)
    for n in range(20):
        house.comment(U, thing=str(n))
        turn(sender)
    assert len(provider.told()) == 5
    provider.answer = lambda _: OK
    for _ in range(30):
        house.pass_(10)
        turn(house.due)
        turn(sender)
    assert len({one.notification for one in provider.sent}) == 20
    assert house.letters() == []


def test_what_is_too_late_is_buried_unsent() -> None:
    house = House()
    house.enlist(U, phone())
    house.comment(U)
    house.pass_(3_600)
    provider = FakeProvider()
    turn(house.sender(provider))
    assert provider.sent == []
    assert house.letters() == ["expired"]
    assert house.metrics.dead_letters["expired"] == 1


def test_what_was_seen_meanwhile_is_not_sent() -> None:
    house = House()
    house.enlist(U, phone())
    house.comment(U)
    now(house.reader.deliver(event("uncomment", to=U)))
    provider = FakeProvider()
    turn(house.sender(provider))
    assert provider.sent == []
    assert house.metrics.push_drops["demo apns retracted"] == 1
    assert house.left() == 0


@pytest.mark.parametrize("late", [0, 3_600])
def test_who_has_no_phone_any_more_is_done(late: int) -> None:
    """Also after the deadline: letters that nobody can do anything about would hide the others."""
    house = House()
    house.enlist(U, phone())
    house.comment(U)
    assert now(house.world.devices().unregister(U, phone().id))
    house.pass_(late)
    turn(house.sender(FakeProvider()))
    assert house.metrics.push_drops["demo apns no_device"] == 1
    assert (house.left(), house.letters()) == (0, [])


def test_whose_phone_is_anothers_now_gets_no_dead_letter() -> None:
    house = House()
    house.enlist(U, phone())
    house.comment(U)
    assert now(steps(house.world).claim(V, phone().id, None)).won
    house.pass_(3_600)
    turn(house.sender(FakeProvider()))
    assert house.metrics.push_drops["demo apns no_device"] == 1
    assert (house.metrics.push_strangers, house.letters()) == (1, [])


@pytest.mark.parametrize("fault", ["raises", "is short"])
def test_a_bug_of_a_provider_stops_nobody(fault: str) -> None:
    house = House()
    house.enlist(U, phone())
    house.comment(U)

    class Broken(FakeProvider):
        async def send(self, requests: Sequence[PushRequest]) -> Sequence[Outcome]:
            if fault == "raises":
                raise KeyError("a bug")
            return []

    sender = house.sender(Broken())
    turn(sender)
    assert house.metrics.push_bugs == 1
    assert "by a bug" in house.said[0]
    assert house.left() == 0
    assert len(house.waiting()) == 1


def test_a_row_that_nobody_can_read_stops_nobody() -> None:
    house = House()
    house.enlist(U, phone())
    house.comment(U)
    box = house.server.boxes[U].copied()
    box.records[box.seq] = msgspec.structs.replace(box.records[box.seq], body="not JSON")
    house.server.boxes.put(U, box)
    house.comment(U, thing="2")
    provider = FakeProvider()
    turn(house.sender(provider))
    assert len(provider.sent) == 1
    assert house.letters() == ["unreadable"]


def test_redis_that_goes_away_while_a_provider_answers_costs_no_second_push() -> None:
    house = House()
    house.enlist(U, phone())
    house.comment(U)
    provider = FakeProvider()
    sender = house.sender(provider)

    async def cut() -> None:
        house.server.down = True

    provider.gate = cut
    with pytest.raises(Unavailable):
        now(sender.once())
    sender.drop()
    house.server.down = False
    turn(sender)
    assert len(provider.sent) == 1
    assert house.left() == 0


def test_who_dies_is_followed_by_whoever_claims_first() -> None:
    house = House()
    house.enlist(U, phone())
    house.comment(U)
    hanging = FakeProvider()
    hanging.gate = lambda: Deferred()
    dying, other = house.sender(hanging, name="p"), FakeProvider()
    hung = Deferred.fromCoroutine(dying.once())
    assert not hung.called
    living = house.sender(other, name="q")
    turn(living)
    assert other.sent == []
    house.pass_(2 * (hanging.longest + 10) + 15)
    turn(living)
    assert len(other.sent) == 1
    assert house.left() == 0


def test_what_was_decided_under_another_run_is_decided_anew() -> None:
    house = House()
    house.enlist(U, phone())
    house.comment(U)
    provider = FakeProvider(lambda _: DOWN)
    sender = house.sender(provider)
    runs = iter([house.server.restart, _nothing])

    async def restart() -> None:
        next(runs)()

    provider.gate = restart
    turn(sender)
    assert len(provider.sent) == 2
    assert len(house.waiting()) == 1
    assert house.left() == 0


def test_a_group_that_is_gone_is_made_again_and_all_comes_once_more() -> None:
    house = House()
    house.enlist(U, phone())
    sender = house.sender(FakeProvider())
    turn(sender)
    house.comment(U)
    house.server.lane("push:{0}:demo:apns").ends.cut("read")
    turn(sender)
    assert house.metrics.group_recreated == 1
    assert house.left() == 0


def test_several_batches_at_once_never_share_an_entry() -> None:
    house = House()
    house.enlist(U, phone())
    for n in range(3 * BATCH // 2):
        house.comment(U, thing=str(n))
    provider, held = FakeProvider(), [Deferred[None](), Deferred[None]()]
    gates = iter(held)
    provider.gate = lambda: next(gates)
    sender = house.sender(provider)
    under_way = [Deferred.fromCoroutine(sender.once()) for _ in range(2)]
    assert len(provider.sent) == 3 * BATCH // 2
    third = now(sender.once())
    assert not third
    for one in held:
        one.callback(None)
    assert all(one.called for one in under_way)
    assert len({one.notification for one in provider.sent}) == 3 * BATCH // 2
    assert house.left() == 0


def test_a_full_batch_wakes_another_who_sleeps() -> None:
    house = House()
    house.enlist(U, phone())
    for n in range(BATCH):
        house.comment(U, thing=str(n))
    sender, rings = house.sender(FakeProvider()), list[int]()
    sender.log.ring = lambda: rings.append(house.left())  # type: ignore[method-assign]
    turn(sender)
    assert rings == [BATCH], "before it sends"
    house.comment(U)
    turn(sender)
    assert rings == [BATCH]


def test_a_bug_of_ours_buries_one_entry_and_stops_nobody() -> None:
    house = House()
    house.enlist(U, phone())

    class Broken(dict[str, Style]):
        def get(self, kind: str, default: Any = None) -> Any:
            if not provider.sent:
                raise KeyError("a bug")
            return default

    provider = FakeProvider()
    sender = house.sender(provider, looks=Looks(Broken()))
    house.comment(U)
    turn(sender)
    assert house.letters() == ["bug"]
    assert house.metrics.push_bugs == 1
    provider.sent.append(Delivery("", "", 0, phone(), 0))
    house.comment(U)
    turn(sender)
    assert len(provider.requests) == 1
    assert house.left() == 0


def test_styles_and_languages_are_those_of_the_configuration() -> None:
    house = House()
    house.enlist(U, msgspec.structs.replace(phone("a"), locale="xx-YY"), phone("b"))
    house.comment(U)
    provider = FakeProvider()
    looks = Looks({"comment": Style(sound="ping", ttl=60)})
    turn(house.sender(provider, looks=looks))
    assert {request.push.style.sound for request in provider.requests} == {"ping"}
    assert {request.push.badge for request in provider.requests} == {1}


def test_a_token_with_another_name_is_kept_under_it() -> None:
    house = House()
    house.enlist(U, phone("old"))
    house.comment(U)
    token = phone("new").token
    renamed = Outcome("delivered", "gcm", 200, "", action="replace", replacement_token=token)
    turn(house.sender(FakeProvider(lambda _: renamed)))
    (device,) = now(house.world.devices().of(U))
    assert (device.id, device.token) == (phone("new").id, token)


def test_a_token_that_somebody_has_registered_since_stays_with_them() -> None:
    house = House()
    house.enlist(U, phone("old"))
    house.comment(U)
    renamed = Outcome("delivered", "gcm", 200, "", action="replace", replacement_token=phone("new").token)
    since = msgspec.structs.replace(phone("new"), registered=phone("old").registered + 1)
    house.enlist(V, since)
    turn(house.sender(FakeProvider(lambda _: renamed)))
    devices = house.world.devices()
    assert [[one.id for one in now(devices.of(user))] for user in (U, V)] == [[phone("old").id], [since.id]]


def test_a_device_that_cannot_be_renamed_is_not_sent_to_again() -> None:
    house = House()
    house.enlist(U, phone("old"))
    house.comment(U)
    token = phone("new").token
    provider = FakeProvider(
        lambda _: Outcome("delivered", "gcm", 200, "", action="replace", replacement_token=token)
    )
    sender = house.sender(provider)
    sender.devices = NoDevices()
    for _ in range(3):
        turn(sender)
    assert len(provider.requests) == 1
    assert "could not be renamed" in house.said[0]


def test_what_is_counted() -> None:
    house = House()
    house.enlist(U, *(phone(name) for name in "abcd"))
    answers = dict(zip((phone(name).id for name in "abcd"), (OK, DOWN, WRONG, None), strict=True))

    def answer(delivery: Delivery) -> Outcome:
        gone = msgspec.structs.replace(GONE, dead_since_ms=house.server.now)
        return answers[delivery.device.id] or gone

    house.comment(U)
    house.pass_(0.2)
    turn(house.sender(FakeProvider(answer)))
    metrics = house.metrics
    assert metrics.push_entries["demo apns"] == 1
    outcomes = {name.split()[2]: count for name, count in metrics.push_outcomes.items() if count}
    assert outcomes == {"delivered": 1, "retry": 1, "drop_message": 1, "drop_token": 1}
    reasons = {name for name, count in metrics.push_reasons.items() if count}
    assert reasons == {"apns ServiceUnavailable", "apns PayloadEmpty", "apns Unregistered"}
    assert metrics.push_retries["demo apns"] == metrics.push_forgotten["demo apns"] == 1
    assert metrics.dead_letters["rejected"] == 1
    assert metrics.push_seconds.count == 1
    assert 0.2 <= metrics.push_seconds.total < 0.3
    assert metrics.push_backlog["demo apns"] == 1


def test_due_waits_longer_while_nothing_is_to_come() -> None:
    house = House()
    waited: list[float] = []

    def wait(seconds: float) -> Awaitable[None]:
        waited.append(seconds)
        done: Deferred[None] = Deferred()
        done.callback(None)
        return done

    due = Due(MemoryDue(house.server, 0, wait), house.metrics, house.clock)
    now(due.once())
    now(_of(due.wait(0.25)))
    house.enlist(U, phone())
    house.comment(U)
    turn(house.sender(FakeProvider(lambda _: DOWN)))
    now(due.once())
    now(_of(due.wait(0.25)))
    assert waited == [1.0, 0.25]
    assert house.metrics.push_due == 1
    house.pass_(10)
    assert now(due.once())
    assert house.metrics.push_woken == 1


def _nothing() -> None:
    return None


async def _of(work: Awaitable[None]) -> None:
    await work


def test_presence_of_a_person_is_seen_by_offline_alone() -> None:
    house = House()
    house.enlist(U, phone())
    now(MemoryInbox(house.server, house.world.rules, "there").join(U, Join("fresh", NOWHERE, 1), ISSUED))
    now(house.reader.deliver(event("follow", to=U), event("comment", to=U)))
    assert house.left() == 1


BAD = [
    *(not_sent("apns", reason) for reason in sorted(NOT_SENT)),
    *(unanswered("apns", reason) for reason in sorted(UNANSWERED)),
    DOWN,
    WRONG_KEY,
    Outcome("retry", "apns", 429, "TooManyProviderTokenUpdates", None, "credential"),
]


@pytest.mark.parametrize("minutes", [10, 60])
@pytest.mark.parametrize("bad", BAD, ids=repr)
def test_one_push_on_a_quiet_lane_outlives_the_provider_s_absence(bad: Outcome, minutes: int) -> None:
    house = House()
    house.enlist(U, phone())
    provider = FakeProvider(lambda _: bad)
    sender = house.sender(provider)
    house.comment(U)
    ((place, entry),) = house.server.lane(f"push:{{0}}:{APNS}").entries.items()
    day = msgspec.structs.replace(entry, deadline=house.server.now + 86_400_000)
    house.server.lane(f"push:{{0}}:{APNS}").entries.put(place, day)

    def pass_(seconds: int) -> None:
        for _ in range(seconds):
            turn(house.due)
            turn(sender)
            house.pass_(1)

    pass_(minutes * 60)
    assert house.letters() == []
    provider.told()
    provider.answer = lambda _: OK
    pass_(3_600)
    assert len(provider.told()) == 1
    assert (house.left(), house.waiting(), house.letters()) == (0, [], [])


def test_a_burial_that_fails_leaves_nothing_in_hand() -> None:
    house = House()
    house.enlist(U, phone())
    provider = FakeProvider()
    sender = house.sender(provider)
    house.comment(U)
    read = sender.log.read

    async def with_broken(want: int) -> PushesRead:
        return msgspec.structs.replace(await read(want), broken=(("1-1", b"?"),))

    async def away(broken: Sequence[tuple[str, bytes]]) -> PushesSettled:
        raise Unavailable("no Redis")

    sender.log.read, sender.log.bury = with_broken, away  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        turn(sender)
    sender.drop()
    sender.log.read = read  # type: ignore[method-assign]
    turn(sender)
    assert provider.told() == [phone().id]
    assert house.left() == 0
