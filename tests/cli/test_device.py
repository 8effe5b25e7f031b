"""`notifier device` as an operator uses it."""

from __future__ import annotations

import json
import stat

import pytest

from tests.cli.program import Program, Said
from tests.servers import Valkey

APPLE = "0a" * 32
CANARY = "0a0a0a0a"


@pytest.fixture
def beside(notifier: Program, redis_url: str) -> Program:
    """The program, where a demo seems to run."""
    (notifier.folder / ".demo").mkdir()
    (notifier.folder / ".demo/endpoints.json").write_text(json.dumps({"redis": redis_url}))
    return notifier


def add(program: Program, user: str, token: str, *more: str, platform: str = "apns") -> Said:
    arguments = ("device", "add", user, "--platform", platform, "--app", "photos", *more)
    return program.run(*arguments, given=f"{token}\n".encode())


def ids(program: Program, user: str) -> list[str]:
    return [line.split()[0] for line in program.run("device", "ls", user).out.splitlines()]


def test_added_listed_and_removed(beside: Program) -> None:
    said = add(beside, "7", APPLE, "--environment", "sandbox", "--locale", "pt-BR")
    assert (said.code, said.err) == (0, "")
    name = said.out.strip()
    listed = beside.run("device", "ls", "7")
    assert name in listed.out
    assert "sandbox pt-BR" in listed.out
    assert CANARY not in listed.out
    (row,) = map(json.loads, beside.run("device", "ls", "7", "--json").out.splitlines())
    assert (row["token"], row["platform"], row["app"]) == (APPLE, "apns", "photos")
    assert beside.run("device", "rm", "7", name).code == 0
    again = beside.run("device", "rm", "7", name)
    assert (again.code, again.err) == (1, f"{name} is no device of 7\n")
    assert beside.run("device", "ls", "7").err == "7 has no devices\n"


def test_a_token_moves_to_who_is_named_last(beside: Program) -> None:
    add(beside, "7", APPLE)
    name = add(beside, "8", APPLE).out.strip()
    assert ids(beside, "7") == []
    assert ids(beside, "8") == [name]


def test_what_is_no_token_is_told_without_repeating_it(beside: Program) -> None:
    said = add(beside, "7", "secret-canary")
    assert said.code == 1
    assert "token: expected an even number of hexadecimal digits" in said.err
    assert "canary" not in said.err


def test_an_app_must_be_configured_where_some_are(beside: Program, redis_url: str) -> None:
    (beside.folder / "key").write_text("x")
    toml = '[apps.other.fcm]\nservice_account_file = "key"\n'
    (beside.folder / "n.toml").write_text(f'[redis]\nurl = "{redis_url}"\n{toml}')
    said = add(beside, "7", APPLE, "--config", "n.toml")
    assert (said.code, "no app of this id is configured" in said.err) == (1, True)


def test_export_and_import_are_the_same_devices(beside: Program) -> None:
    for number in range(120):
        line = {"user": f"u{number % 50}", "token": f"{number:064x}", "platform": "apns", "app": "photos"}
        with (beside.folder / "old.jsonl").open("a") as file:
            file.write(json.dumps(line | {"registered": 1_700_000_000_000 + number}) + "\n")
    first = beside.run("device", "import", "old.jsonl")
    assert (first.code, first.err) == (0, "120 devices imported, 0 superseded, 0 refused\n")
    said = beside.run("device", "export", "new.jsonl")
    assert (said.code, said.err) == (0, "120 devices\n")
    assert stat.S_IMODE((beside.folder / "new.jsonl").stat().st_mode) == 0o600

    def rows(text: str) -> list[tuple[str, str, int]]:
        found = map(json.loads, text.splitlines())
        return sorted((row["user"], row["token"], row["registered"]) for row in found)

    new = (beside.folder / "new.jsonl").read_text()
    assert rows(new) == rows((beside.folder / "old.jsonl").read_text())
    # a device that moved since stays where it is
    assert add(beside, "mover", f"{5:064x}").code == 0
    again = beside.run("device", "import", "-", given=new.encode())
    assert again.err == "119 devices imported, 1 superseded, 0 refused\n"
    assert len(ids(beside, "mover")) == 1
    assert beside.run("device", "export", "new.jsonl").code == 2
    assert rows(beside.run("device", "export").out)[-1][0] == "u9"


def test_an_export_says_what_it_cannot_read(beside: Program, valkey: Valkey) -> None:
    add(beside, "7", APPLE)
    valkey.call("HSET", "dev:{0}:7", "d" * 22, "2a photos 5 what only a newer version reads")
    said = beside.run("device", "export")
    assert (said.code, len(said.out.splitlines())) == (1, 1)
    assert said.err.splitlines() == [
        "1 devices", "1 more were registered by a newer version of notifier: export them with that one",
    ]  # fmt: skip


def test_lines_that_are_no_devices_are_told_by_number(beside: Program) -> None:
    good = json.dumps({"user": "7", "token": APPLE, "platform": "apns", "app": "photos"})
    lines = ["{", good, "", '{"user": "a b", "token": "x"}', good.replace(APPLE, "zz"), "[]"]
    said = beside.run("device", "import", "-", given="\n".join(lines).encode())
    assert said.code == 1
    told = said.err.splitlines()
    assert [line.partition(":")[0] for line in told[:-1]] == ["line 1", "line 4", "line 5", "line 6"]
    assert told[-1] == "1 devices imported, 0 superseded, 4 refused"


@pytest.mark.parametrize(
    "arguments", [["add", "7"], ["ls"], ["rm", "7"], ["import"], ["import", "missing"], ["add", "no blank"]]
)
def test_usage(beside: Program, arguments: list[str]) -> None:
    assert beside.run("device", *arguments).code == 2
