"""What the phones would show: collapse ids and tags replace, and what is shown or sounds twice is counted."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any, Final, Literal

from msgspec import Struct, field

PHONES: Final = 100_000
SHOWN: Final = 100  # per phone; the oldest leaves the screen first
HEARD: Final = 1_000  # per phone: how many notifications are remembered to hear one twice

Platform = Literal["ios", "android"]


class Push(Struct, frozen=True):
    """One accepted push as the phone takes it. `identity` names the notification, `place` its place on the screen.

    Two pushes of one identity are one notification sent twice; two of one place replace one another on the screen
    ("": this one replaces nothing).
    """

    identity: str
    place: str
    at: float
    title: str = ""
    text: str = ""
    badge: int | None = None
    sound: bool = False
    alert: bool = True
    group: str = ""
    data: Mapping[str, Any] = {}


class Phone(Struct):
    """One device: what stands on its screen, newest last, and what came more than once.

    `shown_twice`: one notification stood on the screen a second time. `sounded_twice`: it was replaced in its place,
    but the phone made its sound again. The first must never happen; the second only after a crash or a lost answer.
    """

    token: str
    platform: Platform
    badge: int = 0
    pushes: int = 0
    silent: int = 0
    shown_twice: int = 0
    sounded_twice: int = 0
    shown: OrderedDict[str, Push] = field(default_factory=OrderedDict)
    heard: OrderedDict[str, int] = field(default_factory=OrderedDict)

    def take(self, push: Push) -> None:
        """Shows a push as the phone's system would."""
        self.pushes += 1
        if push.badge is not None:
            self.badge = push.badge
        if not push.alert:
            self.silent += 1
            return
        times = self.heard.pop(push.identity, 0)
        self.heard[push.identity] = times + 1
        place = push.place or f"{push.identity}#{times}"  # nothing to replace it by: it stands there again
        if times:
            self.shown_twice += not push.place
            self.sounded_twice += push.sound
        self.shown.pop(place, None)
        self.shown[place] = push
        while len(self.shown) > SHOWN:
            self.shown.popitem(last=False)
        while len(self.heard) > HEARD:
            self.heard.popitem(last=False)


class Phones:
    """All devices that were ever pushed to, by token; the one longest not pushed to is forgotten at 100 000."""

    def __init__(self) -> None:
        self._phones: OrderedDict[str, Phone] = OrderedDict()
        self.accepted: Counter[Platform] = Counter()

    def take(self, token: str, platform: Platform, push: Push) -> None:
        """A push was accepted for this token."""
        phone = self._phones.get(token)
        if phone is None:
            phone = self._phones[token] = Phone(token, platform)
            if len(self._phones) > PHONES:
                self._phones.popitem(last=False)
        else:
            self._phones.move_to_end(token)
        self.accepted[platform] += 1
        phone.take(push)

    def get(self, token: str) -> Phone | None:
        return self._phones.get(token)

    def every(self) -> list[Phone]:
        """All phones, the last one pushed to first."""
        return list(reversed(self._phones.values()))

    def again(self) -> tuple[int, int]:
        """How many alerts were shown twice, and how many sounded twice, on all phones."""
        every = self._phones.values()
        return sum(phone.shown_twice for phone in every), sum(phone.sounded_twice for phone in every)

    def clear(self) -> None:
        self._phones.clear()
        self.accepted.clear()
