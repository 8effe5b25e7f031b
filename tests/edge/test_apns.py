"""APNs against the sandbox, over TLS: each row of the table of outcomes, tokens, faults of the line."""

# mypy: allow-untyped-calls

from __future__ import annotations

import socket
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.internet import ssl
from twisted.internet.defer import Deferred
from twisted.protocols.portforward import ProxyFactory

from notifier.core.breaker import BreakerRule
from notifier.core.http2 import Limits
from notifier.core.outcomes import APNS
from notifier.core.push import delivery_id
from notifier.edge.apns import LIMITS, Apns
from notifier.edge.http2.dial import Place, place
from notifier.edge.provider_tokens import ApnsTokens
from notifier.edge.signing import es256
from tests.edge.http2.world import PushServer, make_papers, pause, reactor, until
from tests.edge.provider_world import (
    KEY,
    ONE,
    P8,
    TOPIC,
    kinds,
    no_canaries_logged,
    push,
    requests,
    sandboxed,
    token_of,
)

HASTY = msgspec.structs.replace(LIMITS, answer_within=0.4, wait_within=2.0)
TOKENS = [token_of(number) for number in range(40)]


# What is sent -----------------------------------------------------------------------------------------------


async def test_pushes_arrive_as_they_were_meant(tmp_path: Path) -> None:
    async with sandboxed(tmp_path) as world:
        world.knows_keys()
        outcomes = await world.apns().send(requests(TOKENS))
        assert kinds(outcomes) == ["delivered 200"] * len(TOKENS)
        phone = world.sandbox.phones.get(TOKENS[7])
        assert phone is not None
        (shown,) = phone.shown.values()
        assert (shown.text, shown.data["nid"], phone.badge) == ("ana liked your photo", "n1", 3)
        asked = world.sandbox.seen[-1].fields
        assert asked["apns-topic"] == TOPIC
        assert asked["apns-priority"] == "10"
        assert asked["apns-push-type"] == "alert"
        assert asked["apns-collapse-id"] == "n1"
        assert int(asked["apns-expiration"]) * 1000 <= push().deadline
        names = {seen.path[10:]: seen.fields["apns-id"] for seen in world.sandbox.seen}
        device = requests(TOKENS)[3].delivery.device
        assert names[device.token] == delivery_id("n1", device.id)


async def test_the_same_push_has_the_same_name_on_every_try(tmp_path: Path) -> None:
    async with sandboxed(tmp_path) as world:
        apns = world.apns()
        for _ in range(3):
            await apns.send(requests(TOKENS[:1]))
        assert len({seen.fields["apns-id"] for seen in world.sandbox.seen}) == 1
        phone = world.sandbox.phones.get(TOKENS[0])
        assert phone is not None
        assert (phone.pushes, phone.shown_twice) == (3, 0)


async def test_the_first_push_of_a_connection_goes_alone(tmp_path: Path) -> None:
    """Also where the server would take a thousand: until one is good, Apple answers the others with 403 or worse."""
    async with sandboxed(tmp_path) as world:
        factory = world.sandbox.factories["apns"]
        factory.limit({"alone": False})
        world.rule("apns", delay_ms=300, times=1)
        running = Deferred.fromCoroutine(world.apns(sizes=ONE).send(requests(TOKENS)))
        await until(lambda: factory.counts.requests)
        await pause(0.1)
        assert factory.counts.requests == 1
        assert kinds(await running) == ["delivered 200"] * len(TOKENS)


async def test_environments_have_connections_of_their_own(tmp_path: Path) -> None:
    async with sandboxed(tmp_path) as world:
        apns = world.apns()
        mixed = requests(TOKENS[:2]) + requests(TOKENS[2:4], environment="sandbox")
        assert kinds(await apns.send(mixed)) == ["delivered 200"] * 4
        assert {name: pool.counts.made > 0 for name, pool in apns.pools.items()} == {
            "production": True,
            "sandbox": True,
        }


async def test_a_token_out_of_the_store_that_is_none_is_not_sent(tmp_path: Path) -> None:
    async with sandboxed(tmp_path) as world:
        bad = ["ab\r\nx: y", "", "ä" * 64, "../../x"]
        outcomes = await world.apns().send(requests([*bad, TOKENS[0]]))
        assert kinds(outcomes) == ["drop_message 0 unreadable"] * 4 + ["delivered 200"]
        assert len(world.sandbox.seen) == 1


# Outcomes ---------------------------------------------------------------------------------------------------


async def test_every_row_of_the_table_over_the_wire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("notifier.edge.apns._ENOUGH", 1_000)  # two rows of it are about the provider token
    rows = [(status, reason) for status, reason in APNS if status != 200]
    tokens = {row: token_of(0, f"{number:06x}") for number, row in enumerate(rows)}
    async with sandboxed(tmp_path) as world:
        for (status, reason), token in tokens.items():
            world.rule("apns", token[:6], status=status, reason=reason)
        outcomes = await world.apns().send(requests(list(tokens.values())))
        assert [(each.status, each.reason) for each in outcomes] == rows
        for row, outcome in zip(rows, outcomes, strict=True):
            assert (outcome.kind, outcome.scope, outcome.action) == APNS[row]


async def test_what_nobody_has_listed_and_what_is_no_json(tmp_path: Path) -> None:
    async with sandboxed(tmp_path) as world:
        world.rule("apns", "aa", status=418, reason="Teapot")
        world.rule("apns", "ab", status=599, reason="<html>\r\nx")
        world.rule("apns", "ac", status=410, reason="Unregistered", timestamp_ms=1_790_000_000_123)
        world.rule("apns", "ad", status=429, reason="TooManyRequests", retry_after="77")
        outcomes = await world.apns().send(requests([token_of(0, each) for each in ("aa", "ab", "ac", "ad")]))
        assert kinds(outcomes[:2]) == ["drop_message 418 Teapot", "retry 599 unreadable"]
        assert outcomes[2].dead_since_ms == 1_790_000_000_123
        assert outcomes[3].retry_after == 77


# The provider token -----------------------------------------------------------------------------------------


async def test_a_clock_that_was_wrong_costs_one_answer_and_no_push(tmp_path: Path) -> None:
    """The first token was made by a clock two hours slow: the server's word makes another, once, in the same call."""
    async with sandboxed(tmp_path) as world:
        world.skew = -7200.0
        apns = world.apns()
        apns._renew()
        world.skew = 0.0
        # A clock set forward would renew it by age alone; what is tested is Apple's word, so age must not tell.
        assert apns._tokens is not None and apns._tokens._held is not None
        apns._tokens._held = msgspec.structs.replace(apns._tokens._held, made=world.now())
        outcomes = await apns.send(requests(TOKENS))
        assert kinds(outcomes) == ["delivered 200"] * len(TOKENS)
        answers = world.sandbox.factories["apns"].counts.answers
        assert answers["403"] >= 1
        assert answers["200"] == len(TOKENS)


async def test_a_clock_that_stays_wrong_is_told_and_not_hammered(tmp_path: Path) -> None:
    async with sandboxed(tmp_path) as world:
        world.skew = 7200.0
        outcomes = await world.apns(sizes=ONE).send(requests(TOKENS[:3]))
        expired = ["reconnect_retry 403 ExpiredProviderToken"] * 2
        assert kinds(outcomes) == [*expired, "reconnect_retry 0 unreachable"]
        assert world.sandbox.factories["apns"].counts.answers["403"] <= 3


async def test_a_token_that_is_refused_for_ever_is_renewed_once_and_closes_the_pool(tmp_path: Path) -> None:
    async with sandboxed(tmp_path) as world:
        sent: list[str] = []
        factory = world.sandbox.factories["apns"]
        answer = factory.provider.answer

        class Listening:
            def answer(self, request: Any, link: Any) -> Any:
                sent.append(request.fields["authorization"])
                return answer(request, link)

        factory.provider = Listening()
        world.skew = 7200.0
        apns = world.apns(sizes=ONE)
        await apns.send(requests(TOKENS))
        assert len(sent) <= 3
        assert len(set(sent)) <= 2
        pool = apns.pools["production"]
        assert (pool.state, pool.fault) == ("open", "403 ExpiredProviderToken")
        assert kinds(await apns.send(requests(TOKENS, "n2"))) == ["reconnect_retry 0 unreachable"] * len(
            TOKENS
        )


async def test_a_wrong_key_is_not_shown_to_apple_with_every_push(tmp_path: Path) -> None:
    async with sandboxed(tmp_path) as world:
        world.rule("apns", "", status=403, reason="InvalidProviderToken")
        apns = world.apns()
        told = kinds(await apns.send(requests(TOKENS)))
        assert told.count("config_error 403 InvalidProviderToken") == 2
        assert told.count("reconnect_retry 0 unreachable") == len(TOKENS) - 2
        assert world.sandbox.factories["apns"].counts.answers["403"] == 2


async def test_a_token_that_was_good_is_not_made_anew_for_one_refusal(tmp_path: Path) -> None:
    async with sandboxed(tmp_path) as world:
        apns = world.apns()
        await apns.send(requests(TOKENS[:1]))
        token = apns._token
        world.rule("apns", TOKENS[1], status=403, reason="ExpiredProviderToken", times=1)
        assert kinds(await apns.send(requests(TOKENS[1:2]))) == ["reconnect_retry 403 ExpiredProviderToken"]
        assert apns._token == token


async def test_a_renewed_token_is_never_followed_by_the_old_one(tmp_path: Path) -> None:
    """Pushes that wait while the token is renewed go out with the new one: one change on the connection."""
    async with sandboxed(tmp_path) as world:
        sent: list[str] = []
        factory = world.sandbox.factories["apns"]
        answer = factory.provider.answer

        class Listening:
            def answer(self, request: Any, link: Any) -> Any:
                sent.append(request.fields["authorization"])
                return answer(request, link)

        factory.provider = Listening()
        world.rule("apns", TOKENS[0], delay_ms=300)
        apns = world.apns(msgspec.structs.replace(LIMITS, streams=1), sizes=ONE)
        first = Deferred.fromCoroutine(apns.send(requests(TOKENS)))
        await until(lambda: len(sent) == 1)
        world.skew = 2_900.0  # past the latest moment of renewal; the sandbox's own clock has not moved
        factory.now = world.now
        second = Deferred.fromCoroutine(apns.send(requests(TOKENS[:3], "n2")))
        assert kinds(await first) == ["delivered 200"] * len(TOKENS)
        assert kinds(await second) == ["delivered 200"] * 3
        changes = sum(a != b for a, b in pairwise(sent))
        assert changes == 1


async def test_a_key_that_apple_does_not_know_is_the_credentials_fault(tmp_path: Path) -> None:
    async with sandboxed(tmp_path) as world:
        world.knows_keys()
        other = ec.generate_private_key(ec.SECP256R1())
        pem = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with no_canaries_logged() as lines:
            wrong = world.apns(access=ApnsTokens(KEY, es256(pem), world.now, lambda: 0.5))
            outcomes = await wrong.send(requests(TOKENS[:2]))
            assert {(each.kind, each.scope, each.reason) for each in outcomes} == {
                ("config_error", "credential", "InvalidProviderToken")
            }
            told = [line for line in lines if "refuses app photos" in line]
            assert len(told) == 1, "told once, not for each push"
        right = world.apns(access=ApnsTokens(KEY, es256(P8), world.now, lambda: 0.5))
        assert kinds(await right.send(requests(TOKENS[:5]))) == ["delivered 200"] * 5  # the key was rotated


# The line ---------------------------------------------------------------------------------------------------


async def test_an_answer_that_never_comes(tmp_path: Path) -> None:
    async with sandboxed(tmp_path) as world:
        apns = world.apns(HASTY)
        await apns.send(requests(TOKENS[:1]))
        hung = token_of(1, "bad002")
        outcomes = await apns.send(requests([hung, *TOKENS]))
        assert kinds(outcomes) == ["unknown 0 timeout"] + ["delivered 200"] * len(TOKENS)


async def test_a_stream_that_is_reset_and_one_that_is_refused(tmp_path: Path) -> None:
    async with sandboxed(tmp_path) as world:
        apns = world.apns()
        await apns.send(requests(TOKENS[:1]))
        world.rule("apns", TOKENS[5], action="refuse", times=2)
        always = token_of(1, "bad004")
        outcomes = await apns.send(requests([token_of(0, "bad003"), always, TOKENS[5], *TOKENS[6:]]))
        assert kinds(outcomes[:3]) == ["unknown 0 reset", "reconnect_retry 0 refused", "delivered 200"]
        assert kinds(outcomes[3:]) == ["delivered 200"] * 34
        assert world.shown(TOKENS[5]) == 1, "the pool itself sent it again"


async def test_a_connection_that_is_cut_in_the_middle(tmp_path: Path) -> None:
    async with sandboxed(tmp_path) as world:
        apns = world.apns()
        await apns.send(requests(TOKENS[:1]))
        outcomes = await apns.send(requests([*TOKENS[:20], token_of(0, "bad006"), *TOKENS[20:]], "n2"))
        assert {each.kind for each in outcomes} <= {"unknown", "delivered"}
        assert outcomes[20].reason == "lost"
        lost = [n for n, each in enumerate(outcomes) if each.kind == "unknown" and n != 20]
        again = [TOKENS[n if n < 20 else n - 1] for n in lost]
        assert kinds(await apns.send(requests(again, "n2"))) == ["delivered 200"] * len(again)
        for token in TOKENS:
            phone = world.sandbox.phones.get(token)
            assert phone is not None
            assert phone.shown_twice == 0, "the same apns-id and collapse-id hide the second"


async def test_goaway_loses_nothing_and_counts_no_try(tmp_path: Path) -> None:
    async with sandboxed(tmp_path) as world:
        apns = world.apns()
        await apns.send(requests(TOKENS[:1]))
        for tail in range(5):
            marked = [*TOKENS[:10], token_of(tail, "bad005"), *TOKENS[10:]]
            assert kinds(await apns.send(requests(marked, f"n{tail}"))) == ["delivered 200"] * 41
        factory = world.sandbox.factories["apns"]
        assert factory.counts.goaways == 5
        assert apns.pools["production"].counts.goaways >= 4
        assert {world.shown(token) for token in TOKENS[1:]} == {5}


async def test_streams_above_the_last_of_a_goaway_go_elsewhere(tmp_path: Path) -> None:
    """Three are held open; GOAWAY says that only the first was taken. The others are sent again, once."""
    async with sandboxed(tmp_path) as world:
        apns = world.apns(sizes=ONE)
        await apns.send(requests(TOKENS[:1]))
        world.rule("apns", TOKENS[1], delay_ms=400)
        world.rule("apns", TOKENS[2], action="hang", times=1)
        world.rule("apns", TOKENS[3], action="hang", times=1)
        factory = world.sandbox.factories["apns"]
        sending = Deferred.fromCoroutine(apns.send(requests(TOKENS[1:4], "n2")))
        await until(lambda: factory.counts.requests == 4)
        (connection,) = factory.connections
        connection.goaway(last=3)
        assert kinds(await sending) == ["delivered 200"] * 3
        assert apns.pools["production"].counts.replayed == 2
        assert [world.shown(token) for token in TOKENS[1:4]] == [1, 1, 1]


@pytest.mark.parametrize("limits", [{"streams": 1}, {"window": 64}, {"window": 0}, {"window": 700}])
async def test_a_server_that_lets_little_through(tmp_path: Path, limits: dict[str, int]) -> None:
    async with sandboxed(tmp_path) as world:
        factory = world.sandbox.factories["apns"]
        factory.limit({"alone": False, **limits})
        apns = world.apns()
        sending = Deferred.fromCoroutine(apns.send(requests(TOKENS)))
        if limits.get("window") == 0:
            await until(lambda: factory.connections)
            await until(lambda: apns.pools["production"].open)
            factory.limit({"window": 65_535})
        assert kinds(await sending) == ["delivered 200"] * len(TOKENS)
        assert {world.shown(token) for token in TOKENS} == {1}


async def test_an_authority_that_nobody_trusts(tmp_path: Path) -> None:
    """The system's roots do not know the sandbox: nothing is sent, the breaker opens, the lane hears so."""
    async with sandboxed(tmp_path) as world:
        with no_canaries_logged() as lines:
            apns = world.apns(trust=None)
            outcomes = await apns.send(requests(TOKENS))
            assert kinds(outcomes) == ["reconnect_retry 0 unreachable"] * len(TOKENS)
            assert any("no authority that is trusted here" in line for line in lines)
        pool = apns.pools["production"]
        assert pool.counts.failed == 3
        assert kinds(await apns.send(requests(TOKENS[:2])))[0].startswith("reconnect_retry 0")
        assert len(world.sandbox.seen) == 0


async def test_nobody_listens_and_then_somebody_does(tmp_path: Path) -> None:
    async with sandboxed(tmp_path) as world:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        apns = world.apns(to=Place("127.0.0.1", port))
        assert kinds(await apns.send(requests(TOKENS))) == ["reconnect_retry 0 unreachable"] * 40
        assert "refused" in apns.pools["production"].fault.lower()
        there = place(world.running.endpoints.apns)
        listening = reactor.listenTCP(port, ProxyFactory(there.host, there.port), interface="127.0.0.1")
        pool = apns.pools["production"]
        await until(lambda: pool.state != "open")
        assert kinds(await apns.send(requests(TOKENS))) == ["delivered 200"] * 40
        await apns.stop()
        await listening.stopListening()


async def test_a_name_that_does_not_resolve(tmp_path: Path) -> None:
    async with sandboxed(tmp_path) as world:
        apns = world.apns(to=Place("push.invalid", 443))
        assert kinds(await apns.send(requests(TOKENS[:2]))) == ["reconnect_retry 0 unreachable"] * 2
        assert "push.invalid" in apns.pools["production"].fault


async def test_the_name_in_the_certificate_is_another(tmp_path: Path) -> None:
    papers = make_papers("elsewhere.example")
    server = PushServer().listen(papers)
    async with sandboxed(tmp_path) as world:
        roots = ssl.trustRootFromCertificates([papers])
        apns = world.apns(to=Place("localhost", server.port), trust=roots)
        assert kinds(await apns.send(requests(TOKENS[:2]))) == ["reconnect_retry 0 unreachable"] * 2
        assert "another name" in apns.pools["production"].fault
    assert not server.paths
    await server.close()


async def test_a_stopped_provider_lets_open_pushes_run_on(tmp_path: Path) -> None:
    async with sandboxed(tmp_path) as world:
        apns = world.apns()
        await apns.send(requests(TOKENS[:1]))
        world.rule("apns", TOKENS[1], delay_ms=300)
        sending = Deferred.fromCoroutine(apns.send(requests(TOKENS[1:2])))
        await until(lambda: world.sandbox.factories["apns"].counts.requests == 2)
        await apns.stop()
        assert kinds(await sending) == ["delivered 200"]
        assert kinds(await apns.send(requests(TOKENS[2:3])))[0].startswith("reconnect_retry 0")


async def test_after_a_stop_no_connection_is_made(tmp_path: Path) -> None:
    async with sandboxed(tmp_path) as world:
        apns = world.apns()
        await apns.stop()
        outcomes = await apns.send(requests(TOKENS[:2]))
        assert kinds(outcomes) == ["reconnect_retry 0 refused"] * 2
        assert [pool.counts.made for pool in apns.pools.values()] == [0]


async def test_a_full_queue_of_ours_says_nothing_of_apple(tmp_path: Path) -> None:
    """Or a burst would open the breaker of a lane whose pushes are all answered."""
    async with sandboxed(tmp_path) as world:
        apns = world.apns(sizes=msgspec.structs.replace(ONE, waiting=5))
        assert kinds(await apns.send(requests(TOKENS[:1]))) == ["delivered 200"]
        outcomes = kinds(await apns.send(requests(TOKENS)))
        assert outcomes == ["delivered 200"] * 5 + ["reconnect_retry 0 waited"] * (len(TOKENS) - 5)


def test_a_send_is_bounded() -> None:
    limits = Limits(wait_within=20, answer_within=20)
    apns = Apns(reactor, "a", TOPIC, ApnsTokens(KEY, es256(P8), lambda: 0.0, lambda: 0.5), lambda: 0.0,
                limits=limits, breaker=BreakerRule())  # fmt: skip
    assert 60 <= apns.longest <= 70
