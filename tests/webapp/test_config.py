"""The photo API's configuration: safe defaults, all faults at once, no secret shown."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from webapp.config import Config, ConfigError, Fault, Rate, default_toml, load, rate, secret, shard_numbers
from webapp.shards.layout import Layout, databases

ROOT = Path(__file__).parent.parent.parent
Read = Callable[[str], Config]
Faults = Callable[[str], dict[str, str]]
RATES = "expected a number and a period, as in 120/minute (second, minute, hour, day)"
NETWORKS = "expected an address or a network such as 10.0.0.0/8"
DATABASES = "expected the number of a database after the host, as in redis://host:6379/0"
SITE = (
    "unknown setting; there are url, secret_key_file, debug, allowed_hosts, trusted_proxies, request_seconds"
)
SOME = "no node has shard 8, 9, 10, 11, 12, 13, 14, 15, ...: each of the 30 needs one"
PROXY = "[site]\ntrusted_proxies = ['10.0.0.1/8']"


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def reading(text: str) -> Config:
        (tmp_path / "webapp.toml").write_text(text, encoding="utf-8")
        return load(tmp_path / "webapp.toml")

    return reading


@pytest.fixture
def faults(read: Read) -> Faults:
    """All that is wrong with a text, by path."""

    def finding(text: str) -> dict[str, str]:
        with pytest.raises(ConfigError) as caught:
            read(text)
        return {fault.path: fault.message for fault in caught.value.faults}

    return finding


def test_the_default_file_is_current() -> None:
    """`python -m webapp.config > conf/webapp.toml` makes it."""
    assert (ROOT / "conf" / "webapp.toml").read_text(encoding="utf-8") == default_toml()


def test_the_default_file_says_the_defaults() -> None:
    default = load()
    found = load(ROOT / "conf" / "webapp.toml")
    folder = found.photos.folder
    assert msgspec.structs.replace(found, photos=default.photos) == default
    assert folder == str(ROOT / "conf" / "photos")


def test_what_the_default_file_leaves_out_is_good_too(read: Read) -> None:
    text = "".join(
        line.removeprefix("# ") if " = " in line and line.startswith("# ") and "  " not in line else line
        for line in default_toml().splitlines(keepends=True)
    )
    found = read(text)
    assert found.redis.events_url == "redis://10.0.0.5:6379/0"
    assert found.site.secret_key_file is not None
    assert found.site.secret_key_file.endswith("/secret.key")


def test_no_file_and_an_empty_one_are_the_defaults(read: Read, tmp_path: Path) -> None:
    assert read("").photos.folder == str(tmp_path / "photos")
    assert load().photos.folder == str(Path("photos").absolute())


def test_paths_begin_at_the_file(read: Read, tmp_path: Path) -> None:
    found = read('[tokens]\nkey_file = "../key.pem"\n[photos]\nfolder = "/srv/photos"')
    assert found.tokens.key_file == f"{tmp_path}/../key.pem"
    assert found.photos.folder == "/srv/photos"


def test_all_faults_at_once(faults: Faults) -> None:
    assert faults(
        """
        colour = "red"
        [site]
        debgu = true
        url = "ftp://example.com"
        allowed_hosts = ["a b"]
        [shards]
        count = 9000
        nodes = [{shards = "0-x"}, {shards = "0-7", primary = "postgresql://u@h/d", replica = []}]
        [feed]
        length = "many"
        [limits]
        reads = "5 per minute"
        [photos]
        options = {a = [1]}
        """
    ) == {
        "colour": f"unknown setting; there are {', '.join(Config.__struct_fields__)}",
        "site.debgu": "unknown setting; did you mean debug?",
        "site.url": "expected http://host or https://host",
        "site.allowed_hosts": "expected the name of a host, .example.com for all below one, or *",
        "shards.count": "expected a whole number <= 8192",
        "shards.nodes[0].shards": 'found "0-x", expected numbers and ranges of shards, as in 0-3, 7',
        "shards.nodes[0].primary": 'missing; for example "postgresql://webapp@127.0.0.1:5432/webapp"',
        "shards.nodes[1].replica": "unknown setting; did you mean replicas?",
        "feed.length": "expected a whole number, got text",
        "limits.reads": f'found "5 per minute", {RATES}',
        "photos.options": "expected true or false, a whole number, a number, text, got a list",
    }


def test_the_error_reads_as_a_list(read: Read) -> None:
    with pytest.raises(ConfigError) as caught:
        read('[feed]\nlength = 1\n[search]\nbackend = "a b"')
    assert str(caught.value) == (
        "2 faults in the configuration:\n"
        "  search.backend: expected a name, or a dotted path of one in Python\n"
        "  feed.length: expected a whole number >= 10"
    )


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ('site = "x"', "site", "found text, expected a table"),
        ("[shards]\nnodes = []", "shards.nodes", "expected at least one table"),
        ("[shards]\nnodes = [1]", "shards.nodes[0]", "found a number, expected a table"),
        ("[shards]\ncount = 9", "shards.nodes", "no node has shard 8: each of the 9 needs one"),
        ("[shards]\ncount = 30", "shards.nodes", SOME),
        ("[shards]\ncount = 7", "shards.nodes[0].shards", "there is no shard 7: shards.count is 7"),
        ('[redis]\nurl = "http://x"', "redis.url", "expected redis://host:6379/0, or rediss:// for TLS"),
        ('[redis]\nurl = "redis://x/a"', "redis.url", DATABASES),
        ('[notifier]\nwebsocket = "http://x"', "notifier.websocket", "expected ws://host or wss://host"),
        (PROXY, "site.trusted_proxies", f'found "10.0.0.1/8", {NETWORKS}'),
        ("[tokens]\nhours = 25", "tokens.hours", "expected a whole number <= 24"),
        ('[site]\n"bad\\nname" = 1', 'site."bad\\nname"', SITE),
    ],
)  # fmt: skip
def test_refused(faults: Faults, text: str, path: str, message: str) -> None:
    assert faults(text) == {path: message}


def test_a_shard_has_one_home(faults: Faults, read: Read) -> None:
    node = 'primary = "postgresql://u@h/d"'
    assert faults(f'[shards]\nnodes = [{{shards = "0-7", {node}}}, {{shards = "3, 4", {node}}}]') == {
        "shards.nodes[1].shards": "shard 4 is already on shards.nodes[0]"
    }
    found = read(f'[shards]\nnodes = [{{shards = "0-3, 7", {node}}}, {{shards = "4-6", {node}}}]')
    layout = Layout(found.shards.count, found.shards.nodes)
    assert [layout.homes[number].number for number in range(8)] == [0, 0, 0, 0, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("redis", "url", "redis://:hunter2@host/0"),
        ("redis", "url", "redis://host:hunter2/0"),
        ("redis", "limits_url", "redis://user:hunter2@host/0?hunter2"),
        ("redis", "password_file", "hunter2\\n"),
        ("tokens", "key_file", "-----BEGIN hunter2\\n"),
        ("site", "url", "https://user:hunter2@host"),
    ],
)
def test_a_secret_in_the_wrong_place_is_not_repeated(read: Read, section: str, name: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(f'[{section}]\n{name} = "{value}"')
    assert f"{section}.{name}" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_password_in_a_nodes_url_is_not_repeated(read: Read) -> None:
    with pytest.raises(
        ConfigError, match=r"shards.nodes\[0\].primary: a password does not belong in the URL"
    ) as caught:
        read('[shards]\nnodes = [{shards = "0-7", primary = "postgresql://u:hunter2@h/d"}]')
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("content", [b"[site\n", b"\xff\xfe", b"a = 1\na = 2"])
def test_what_is_no_toml_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"bad\.toml: is not TOML in UTF-8"):
        load(tmp_path / "bad.toml")


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
        load(tmp_path / "none.toml")


def test_secrets_are_read_from_files(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("  hunter2\n")
    assert secret(str(tmp_path / "password"), "redis.password_file") == "hunter2"
    assert secret(None, "redis.password_file") == ""
    with pytest.raises(ConfigError) as caught:
        secret(str(tmp_path / "none"), "redis.password_file")
    assert caught.value.faults == (
        Fault("redis.password_file", f"{tmp_path}/none cannot be read: No such file or directory"),
    )


def test_rates_and_shard_numbers() -> None:
    assert rate("120/minute") == Rate(120, 60)
    assert rate("1/day") == Rate(1, 86_400)
    assert shard_numbers("0-2, 7,9 - 9") == (0, 1, 2, 7, 9)
    for text in ("", "0/minute", "5/week", "-1/day", "5 / day"):
        with pytest.raises(ValueError, match="expected a number and a period"):
            rate(text)
    for text in ("", "3-1", "8192", "-1", "1,,2"):
        with pytest.raises(ValueError, match="shards"):
            shard_numbers(text)


def test_the_tree_is_frozen() -> None:
    with pytest.raises(AttributeError):
        load().site.debug = True  # type: ignore[misc]


def test_databases_are_made_of_it(read: Read, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\n")
    primary = 'primary = "postgresql://an%40a@db1:5433/photos?sslmode=require"'
    replicas = 'replicas = ["postgres://ana@db2/photos"]'
    told = f'{{shards = "0-7", {primary}, {replicas}, password_file = "password"}}'
    found = databases(read(f"[shards]\nnodes = [{told}]"))
    assert found.keys() == {"default", "node0", "node0_replica0"}
    node = found["node0"]
    assert (node["HOST"], node["PORT"], node["NAME"], node["USER"], node["PASSWORD"]) == (
        "db1", "5433", "photos", "an@a", "secret"
    )  # fmt: skip
    assert node["OPTIONS"]["sslmode"] == "require"
    assert (found["node0_replica0"]["HOST"], found["node0_replica0"]["PORT"]) == ("db2", "5432")


def test_a_command_shows_the_faults_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "webapp.toml").write_text("[feed]\nlength = 1\n")
    done = subprocess.run(
        [sys.executable, "-m", "webapp", "check"],
        cwd=ROOT,
        env={**os.environ, "WEBAPP_CONFIG": str(tmp_path / "webapp.toml")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "1 fault in the configuration:\n  feed.length: expected a whole number >= 10\n"
