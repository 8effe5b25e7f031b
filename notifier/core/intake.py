"""The front door: bytes a producer appended become an Event, or a reason why not; never an exception.

The usual event is read once and checked by one regular expression; only what fails is looked at closely.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta

from notifier.core.model import Actor, Event, Object

Reason = Literal[
    "too_large",
    "not_json",
    "schema",
    "unknown_type",
    "id_without_time",
    "future",
    "stale",
    "too_many_recipients",
    "duplicate_recipient",
]

REASONS: Final[Mapping[Reason, str]] = {
    "too_large": "the entry is larger than the limit",
    "not_json": "not UTF-8, or not JSON",
    "schema": "a field is missing, has the wrong JSON type, or holds what the field may not hold",
    "unknown_type": "`type` is neither a declared type nor `un` before one",
    "id_without_time": "an `id` came without the `time` that makes it unique",
    "future": "`time` is further ahead of the entry than clocks may differ",
    "stale": "`time` is older than the idempotency window",
    "too_many_recipients": "`to` names more people than the limit",
    "duplicate_recipient": "`to` names somebody twice",
}


class Rejected(msgspec.Struct, frozen=True, gc=False):
    """Why bytes are no event: a key of REASONS, and what was found where, for the dead letters."""

    reason: Reason
    detail: str


class _Form(NamedTuple):
    """What a string must look like: a pattern that reads alike in Python and JSON Schema, and words."""

    pattern: str
    words: str

    def fits(self, value: str) -> bool:
        return re.fullmatch(self.pattern, value) is not None

    def schema(self) -> dict[str, Any]:
        return {"pattern": f"^{self.pattern}$"}


# No backslash, quote or angle bracket: clients put these into attributes, and browsers read "\" as "/".
_URL_CHAR: Final = r'[^\x00-\x20"<>\\\x7f]'

_ID: Final = _Form(r"[!-~]{1,200}", "1-200 printable ASCII characters without spaces")
_USER: Final = _Form(r"[A-Za-z0-9_.-]{1,64}", "a user id: 1-64 characters of A-Z a-z 0-9 _ . -")
_WORD: Final = _Form(r"[^\x00-\x1f\x7f]{1,200}", "1-200 characters without control characters")
_NAME: Final = _Form(r"[^\x00-\x1f\x7f]{0,200}", "at most 200 characters without control characters")
# RFC 3986 section 4.2: a relative reference has no colon in its first segment, so `javascript:` is none;
# "//host" is left out because it looks like a path and is not.
_LINK: Final = _Form(
    rf'(?:[Hh][Tt][Tt][Pp][Ss]?://[^\x00-\x20"<>\\\x7f/?#]{_URL_CHAR}*'
    rf'|(?!//)[^\x00-\x20"<>\\\x7f:/?#]*(?:[/?#]{_URL_CHAR}*)?)',
    "an http or https URL or a relative path, without spaces, quotes, angle brackets or backslashes",
)
# C ends a string at NUL, PostgreSQL refuses it. Lone surrogates never come this far: the JSON reader refuses
# them, so that whatever is let in can be written as UTF-8 JSON again.
_TEXT: Final = _Form(r"[^\x00]*", "text without NUL")

# All short strings of one event, joined by newlines, in one match: 0.7 us, where a pattern a field costs 2.6.
# No form admits a newline and the number of lines is fixed: a value that brings its own makes one too many.
_PLAIN: Final = rf"(?:{_ID.pattern})?\n{_USER.pattern}\n[A-Za-z0-9_.-]*\n{_NAME.pattern}\n{_LINK.pattern}"
_THING: Final = rf"\n{_WORD.pattern}\n{_WORD.pattern}\n{_LINK.pattern}\n{_LINK.pattern}"
_plain: Final = re.compile(_PLAIN).fullmatch
_with_thing: Final = re.compile(_PLAIN + _THING).fullmatch


def _string(form: _Form, least: int, most: int, description: str) -> Meta:
    return Meta(min_length=least, max_length=most, description=description, extra_json_schema=form.schema())


_IdText = Annotated[str, _string(_ID, 1, 200, "Names the action; the same on every repeat. Needs `time`.")]
_UserText = Annotated[str, _string(_USER, 1, 64, "A user id.")]
_WordText = Annotated[str, _string(_WORD, 1, 200, "A short string without control characters.")]
_NameText = Annotated[str, _string(_NAME, 0, 200, "A name to display.")]
_LinkText = Annotated[str, _string(_LINK, 0, 2048, "An http(s) URL or a relative path.")]
_TextText = Annotated[str, _string(_TEXT, 0, 4096, "Words of the actor, such as a comment.")]
_TypeText = Annotated[str, Meta(description="What happened; `un` before a type takes it back.")]
_Time = Annotated[datetime, Meta(tz=True, description="When it happened, RFC 3339 with a zone.")]


class _Actor(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    id: _UserText
    name: _NameText | None = None
    image: _LinkText | None = None


class _Object(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    type: _WordText
    id: _WordText
    url: _LinkText | None = None
    image: _LinkText | None = None


class _Wire(msgspec.Struct, gc=False, forbid_unknown_fields=True, kw_only=True):
    type: _TypeText
    actor: _Actor
    to: Annotated[
        list[_UserText],
        Meta(min_length=1, description="Who should hear of it.", extra_json_schema={"uniqueItems": True}),
    ]
    id: _IdText | None = None
    time: _Time | None = None
    object: _Object | None = None
    text: _TextText | None = None


# The same with unknown fields let through; msgspec wants the names again to see the other nested types.
class _OpenActor(_Actor, gc=False, forbid_unknown_fields=False):
    pass


class _OpenObject(_Object, gc=False, forbid_unknown_fields=False):
    pass


class _OpenWire(_Wire, gc=False, forbid_unknown_fields=False, kw_only=True):
    actor: _OpenActor
    object: _OpenObject | None = None


_Fields = dict[str, msgspec.Raw]

# An unknown field makes the strict reader fail, so the usual event pays nothing for being free of them.
_strict: Final = msgspec.json.Decoder(_Wire).decode
_open: Final = msgspec.json.Decoder(_OpenWire).decode
_syntax: Final = msgspec.json.Decoder(msgspec.Raw).decode
_fields: Final = msgspec.json.Decoder(_Fields).decode
_inner_fields: Final = msgspec.json.Decoder(_Fields | None).decode
_KNOWN: Final = tuple(frozenset(kind.__struct_fields__) for kind in (_Wire, _Actor, _Object))

_TYPE: Final = re.compile(r"[a-z][a-z0-9_]{0,31}").fullmatch
_SHOWN: Final = 60
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS: Final = 253_402_300_799_999  # the last that a calendar has
_MILLISECOND: Final = timedelta(milliseconds=1)


class Intake:
    """Decides what is an event; `unknown_fields` and `self_recipients` count what was dropped on the way.

    `types` are the declared base types; `window_ms` is the idempotency window and `future_ms` how far a
    producer's clock may be ahead, both in ms; `max_bytes` bounds an entry, `max_recipients` its `to`.
    Raises ValueError for types that are malformed or stand for one another's retraction.
    """

    def __init__(
        self, types: Sequence[str], window_ms: int, future_ms: int, max_bytes: int, max_recipients: int
    ) -> None:
        self._kinds = _kinds(types)
        self._window_ms = window_ms
        self._future_ms = future_ms
        self._max_bytes = max_bytes
        self._max_recipients = max_recipients
        self.unknown_fields = 0
        self.self_recipients = 0

    def decode(self, raw: bytes, entry_id: str) -> Event | Rejected:
        """Read the field `event` of the stream entry `entry_id` ("ms-seq", which gives the accept time)."""
        if len(raw) > self._max_bytes:
            return Rejected("too_large", f"{len(raw)} bytes, at most {self._max_bytes} are allowed")
        wire: _Wire | Rejected
        try:
            wire = _strict(raw)
        except (ValueError, RecursionError):
            wire = self._read_openly(raw)
            if isinstance(wire, Rejected):
                return wire
        if not _is_usual(wire) and (fault := _fault(wire)):
            return Rejected("schema", fault)
        return self._judge(wire, entry_id)

    def _read_openly(self, raw: bytes) -> _Wire | Rejected:
        try:
            raw.decode()  # the reader skips over the strings of unknown fields without looking at their bytes
            _syntax(raw)
            wire = _open(raw)
        except msgspec.ValidationError as error:
            return Rejected("schema", str(error))
        except ValueError as error:
            return Rejected("not_json", str(error) if raw else "empty: the JSON belongs in the field `event`")
        except RecursionError:
            return Rejected("not_json", "nested too deeply")
        self.unknown_fields += _unknown(_fields(raw))
        return wire

    def _judge(self, wire: _Wire, entry_id: str) -> Event | Rejected:
        kind = self._kinds.get(wire.type)
        if kind is None:
            return Rejected("unknown_type", f"{_shown(wire.type)} is not one of: {', '.join(self._kinds)}")
        accepted = int(entry_id.partition("-")[0])
        if accepted > _LAST_MS:
            return Rejected(
                "future", "the entry's id is beyond the year 9999; append with `*`, mend with XSETID"
            )
        if wire.time is not None:
            time = (wire.time - _EPOCH) // _MILLISECOND
            if not -self._window_ms <= time - accepted <= self._future_ms:
                return self._out_of_time(time - accepted)
        elif wire.id is not None:
            return Rejected("id_without_time", "an `id` needs a `time`, the same on every repeat")
        else:
            time = accepted
        to = wire.to
        if len(to) > 1 and (crowd := self._crowd(to)):
            return crowd
        return self._event(wire, kind, time, accepted, entry_id)

    def _out_of_time(self, ahead: int) -> Rejected:
        if ahead > 0:
            return Rejected(
                "future", f"`time` is {ahead} ms after the entry, at most {self._future_ms} may be"
            )
        return Rejected("stale", f"`time` is {-ahead} ms before the entry, at most {self._window_ms} may be")

    def _crowd(self, to: list[str]) -> Rejected | None:
        if len(to) > self._max_recipients:
            return Rejected(
                "too_many_recipients", f"{len(to)} in `to`, at most {self._max_recipients} may be"
            )
        if len(set(to)) == len(to):
            return None
        user, times = Counter(to).most_common(1)[0]
        return Rejected("duplicate_recipient", f"{_shown(user)} stands {times} times in `to`")

    def _event(self, wire: _Wire, kind: tuple[str, bool], time: int, accepted: int, entry_id: str) -> Event:
        actor, thing, to = wire.actor, wire.object, wire.to
        if actor.id in to:  # nobody is told of what they did themselves
            to.remove(actor.id)
            self.self_recipients += 1
        return Event(
            wire.id if wire.id is not None else "x:" + entry_id,
            time,
            accepted,
            kind[0],
            kind[1],
            Actor(actor.id, actor.name or None, actor.image or None),  # "" is how some languages say nothing
            tuple(to),
            None if thing is None else Object(thing.type, thing.id, thing.url or None, thing.image or None),
            wire.text or None,
            wire.id is not None,
        )


def _kinds(types: Sequence[str]) -> dict[str, tuple[str, bool]]:
    kinds: dict[str, tuple[str, bool]] = {}
    for base in types:
        if not _TYPE(base):
            raise ValueError(f"event type {base!r}: expected a-z, then up to 31 of a-z 0-9 _")
        for name, kind in ((base, (base, False)), ("un" + base, (base, True))):
            if name in kinds:
                raise ValueError(f"event type {base!r}: {name!r} is declared already")
            kinds[name] = kind
    return kinds


def _is_usual(wire: _Wire) -> bool:
    actor, thing, text = wire.actor, wire.object, wire.text
    lines = f"{wire.id or ''}\n{actor.id}\n{''.join(wire.to)}\n{actor.name or ''}\n{actor.image or ''}"
    if thing is None:
        match = _plain(lines)
    else:
        match = _with_thing(f"{lines}\n{thing.type}\n{thing.id}\n{thing.url or ''}\n{thing.image or ''}")
    return match is not None and (text is None or "\0" not in text)


def _fault(wire: _Wire) -> str:
    """Say which string has the wrong form, or "" if none has: each is judged alone, and this is the law."""
    actor, thing = wire.actor, wire.object
    strings: list[tuple[str, str | None, _Form]] = [
        ("id", wire.id, _ID),
        ("actor.id", actor.id, _USER),
        ("actor.name", actor.name, _NAME),
        ("actor.image", actor.image, _LINK),
        ("text", wire.text, _TEXT),
        *((f"to[{place}]", user, _USER) for place, user in enumerate(wire.to)),
    ]
    if thing is not None:
        strings += [
            ("object.type", thing.type, _WORD),
            ("object.id", thing.id, _WORD),
            ("object.url", thing.url, _LINK),
            ("object.image", thing.image, _LINK),
        ]
    for path, value, form in strings:
        if value is not None and not form.fits(value):
            return f"Expected {form.words}, got {_shown(value)} - at `$.{path}`"
    return ""


def _unknown(fields: _Fields) -> int:
    top, actor, thing = _KNOWN
    count = len(fields.keys() - top)
    for name, known in (("actor", actor), ("object", thing)):
        if name in fields:
            count += len((_inner_fields(fields[name]) or {}).keys() - known)
    return count


def _shown(value: str) -> str:
    """Quote input for a dead letter: ASCII on one line, at most _SHOWN characters of it."""
    return ascii(value if len(value) <= _SHOWN else value[:_SHOWN] + "...")


def schema(
    types: Sequence[str] = ("follow", "like", "comment"), max_recipients: int = 1000
) -> dict[str, Any]:
    """Describe an event as JSON Schema, draft 2020-12: every rule but those about clocks and bytes."""
    _, parts = msgspec.json.schema_components([_OpenWire], ref_template="#/$defs/{name}")
    defs: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(parts).replace(b"_Open", b""))
    event = defs.pop("Wire")
    event["properties"]["type"]["enum"] = list(_kinds(types))
    event["properties"]["to"]["maxItems"] = max_recipients
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **event,
        "title": "Event",
        "description": "What a producer appends to the stream; fields not named here are dropped.",
        # Not dependentRequired: a null counts as absent, here and in the reader.
        "if": {"properties": {"id": {"type": "string"}}, "required": ["id"]},
        "then": {"properties": {"time": {"type": "string"}}, "required": ["time"]},
        "$defs": defs,
    }
