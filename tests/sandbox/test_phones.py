"""What a phone shows: replaced by place, counted when it comes again."""

from __future__ import annotations

from notifier.sandbox.phones import HEARD, SHOWN, Phone, Phones, Push


def push(identity: str, place: str = "", **more: object) -> Push:
    return Push(identity, place, 0.0, title="t", sound=True, **more)  # type: ignore[arg-type]


def test_a_place_is_replaced_and_moves_to_the_top() -> None:
    phone = Phone("t", "ios")
    for each in (push("a", "photo 1"), push("b", "photo 2"), push("c", "photo 1")):
        phone.take(each)
    assert [each.identity for each in phone.shown.values()] == ["b", "c"]
    assert (phone.shown_twice, phone.sounded_twice) == (0, 0)


def test_the_same_notification_without_a_place_is_shown_twice() -> None:
    phone = Phone("t", "ios")
    phone.take(push("a"))
    phone.take(push("a"))
    assert len(phone.shown) == 2
    assert (phone.shown_twice, phone.sounded_twice) == (1, 1)


def test_the_same_notification_in_its_place_only_sounds_twice() -> None:
    phone = Phone("t", "android")
    phone.take(push("a", "photo 1"))
    phone.take(push("a", "photo 1"))
    assert len(phone.shown) == 1
    assert (phone.shown_twice, phone.sounded_twice) == (0, 1)


def test_a_silent_push_moves_the_badge_and_shows_nothing() -> None:
    phone = Phone("t", "ios")
    phone.take(Push("a", "", 0.0, badge=4, alert=False))
    phone.take(Push("a", "", 0.0, badge=0, alert=False))
    assert (phone.badge, phone.silent, phone.pushes) == (0, 2, 2)
    assert not phone.shown
    assert (phone.shown_twice, phone.sounded_twice) == (0, 0)


def test_a_phone_is_bounded() -> None:
    phone = Phone("t", "ios")
    for number in range(HEARD + 50):
        phone.take(push(str(number)))
    assert len(phone.shown) == SHOWN
    assert len(phone.heard) == HEARD


def test_the_sum_over_all_phones() -> None:
    phones = Phones()
    for token in ("x", "y", "x", "y"):
        phones.take(token, "ios", push("a", "p" if token == "x" else ""))
    assert phones.again() == (1, 2)
    assert [phone.token for phone in phones.every()] == ["y", "x"]
    assert phones.accepted["ios"] == 4
