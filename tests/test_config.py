"""The configuration: what it accepts, what it says about the rest, and the two files made from it."""

from __future__ import annotations

import operator
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.inspect import FloatType, IntType, StrType

from notifier import config
from notifier.config import Apns, Config, ConfigError, Fcm, Gcm, Key, Redis, TypePush, load

ROOT = Path(__file__).parent.parent
SECRET = "hunter2-canary"
Faults = dict[str, str]
Check = Callable[..., Faults]
SETTINGS = list(config._SETTINGS.values())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that holds every file which the examples of the settings name."""
    for name in (
        "redis.password", "redis-ca.pem", "2026-11.pub", "jwks.json", "AuthKey_ABC1234567.p8", "photos.p12",
        "photos.password", "authority.pem", "firebase.json", "gateway.key",
    ):  # fmt: skip
        (tmp_path / name).touch()
    return tmp_path


@pytest.fixture
def read(folder: Path) -> Callable[..., Config]:
    def read(text: str = "", **environ: str) -> Config:
        (folder / "notifier.toml").write_text(text)
        return load(folder / "notifier.toml", environ)

    return read


@pytest.fixture
def faults(read: Callable[..., Config]) -> Check:
    def faults(text: str = "", **environ: str) -> Faults:
        with pytest.raises(ConfigError) as caught:
            read(text, **environ)
        found = {fault.path: fault.message for fault in caught.value.faults}
        assert len(found) == len(caught.value.faults), "a path is blamed twice"
        return found

    return faults


# --- The generated files -----------------------------------------------------------------------------


def test_the_default_file_is_current() -> None:
    assert (ROOT / "conf/notifier.toml").read_text("utf-8") == config.default_toml()


def test_the_reference_is_current() -> None:
    assert (ROOT / "docs/configuration.md").read_text("utf-8") == config.reference_markdown()


def test_the_default_file_says_the_defaults() -> None:
    assert load(ROOT / "conf/notifier.toml", {}) == load(None, {}) == Config()


def test_the_default_file_holds_every_setting_and_its_comments_are_good_settings(
    read: Callable[..., Config],
) -> None:
    text = re.sub(r"^#(?=[a-z\[])", "", config.default_toml(), flags=re.MULTILINE)
    text = text.replace("redis://127", "rediss://127")  # which the example of a CA file asks for
    tree = tomllib.loads(text)
    (photos,), (like,) = tree.pop("apps").values(), tree.pop("types").values()
    held = {name: set(table) for name, table in tree.items() if isinstance(table, dict)}
    every = {(s.path.rpartition(".")[0], s.name) for s in SETTINGS if s.path not in ("name", "apps", "types")}
    assert {(section, name) for section, names in held.items() for name in names} == every
    assert read(text).tokens.keys[0].algorithm == "EdDSA"
    assert read(text).apps["photos"].apns == Apns(**photos["apns"] | _files(photos["apns"], read(text)))
    assert set(like) == set(msgspec.structs.asdict(TypePush()))


def test_what_stands_for_other_settings_is_a_good_setting_too(read: Callable[..., Config]) -> None:
    text = config.default_toml()
    section = text[text.index("#[apps.photos.apns]") :]
    apns = re.findall(r"^# (certificate_file|password_file) = (.*)$", section, re.MULTILINE)
    gcm = section[section.index("# [apps.photos.gcm]") : section.index("#[types.like]")]
    lines = [
        "[apps.photos.apns]",
        'topic = "com.example.photos"',
        *(f"{name} = {value}" for name, value in apns),
    ]
    lines += [line[2:] for line in gcm.splitlines() if re.match(r"# [a-z_\[].*[=\]]", line)]
    app = read("\n".join(lines)).apps["photos"]
    assert app.apns is not None
    assert app.apns.certificate_file is not None
    assert app.gcm is not None


def _files(table: Mapping[str, Any], read: Config) -> Mapping[str, Any]:
    """The paths that came back absolute."""
    apns = read.apps["photos"].apns
    assert apns is not None
    found = msgspec.structs.asdict(apns)
    return {name: found[name] for name in table if name.endswith("_file")}


@pytest.mark.parametrize("setting", SETTINGS, ids=operator.attrgetter("path"))
def test_the_reference_names_every_setting(setting: Any) -> None:
    text = config.reference_markdown()
    row = next(line for line in text.splitlines() if f"`{setting.variable}`" in line)
    assert row.startswith(f"| `{setting.name}` |")
    assert setting.shape.description.replace("*", "\\*") in row
    assert len(re.findall(r"(?<!\\)\|", row)) == 6


def test_the_example_of_the_reference_is_what_the_code_says(faults: Check) -> None:
    found = faults("[redis]\nshards = 100\n[websocket]\norgins = []", NOTIFIER_LOG__LEVEL="verbose")
    lines = [f"  {path}: {message}" for path, message in found.items()]
    assert set(lines) <= set(config.reference_markdown().splitlines())
    assert len(lines) == 3


# --- The tree ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", SETTINGS, ids=operator.attrgetter("path"))
def test_every_setting_is_described_bounded_and_at_a_good_default(setting: Any) -> None:
    shape = setting.shape
    assert shape.description.endswith("."), "one sentence of documentation"
    assert "\n" not in shape.description
    inner = [part for field in shape.fields.values() for part in (field, *field.fields.values())]
    for part in (shape.item, *inner):
        if isinstance(part.kind, IntType | FloatType):
            assert part.kind.ge is not None
            assert part.kind.le is not None
        if isinstance(part.kind, StrType):
            assert part.words["title"]
            assert not re.search(part.kind.pattern or "", "a\n:/"), "control characters get in"
    if setting.default is None:
        assert shape.optional
        assert shape.example
    else:
        raw = msgspec.to_builtins(setting.default)
        reader = config._Reader([])
        kept = reader.value(shape, list(raw) if isinstance(raw, tuple) else raw, setting.path)
        assert reader.faults == []
        assert msgspec.convert(kept, type(setting.default)) == setting.default


def test_the_tree_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Config().redis.shards = 2  # type: ignore[misc]


def test_no_secret_can_be_a_setting() -> None:
    names = {s.name for s in SETTINGS} | set(msgspec.structs.asdict(Key("a", "ES256", "b")))
    names |= {field for table in (Apns, Fcm, Gcm, TypePush) for field in table.__struct_fields__}
    found = {name for name in names if re.search("password|secret|token|private|key", name)}
    # where tokens are had is no secret, nor is what Apple calls a key
    assert found == {"password_file", "key_file", "key_id", "keys", "token_hosts", "token_url"}


# --- Loading -----------------------------------------------------------------------------------------


def test_the_file_then_the_environment(read: Callable[..., Config]) -> None:
    text = 'name = "east"\n[redis]\nshards = 4\ntimeout_seconds = 2\n[events]\ntypes = ["wave"]'
    got = read(text, NOTIFIER_REDIS__SHARDS="8", NOTIFIER_LIMITS__PER_USER="5", PATH="/bin")
    assert got == Config(
        name="east",
        redis=Redis(shards=8, timeout_seconds=2.0),
        events=config.Events(types=("wave",)),
        limits=config.Limits(per_user=5),
    )
    assert isinstance(got.redis.timeout_seconds, float)


@pytest.mark.parametrize(
    ("variable", "text", "path", "value"),
    [
        ("NOTIFIER_NAME", "west", "name", "west"),
        ("NOTIFIER_NAME", "42", "name", "42"),
        ("NOTIFIER_NAME", "true", "name", "true"),
        ("NOTIFIER_TOKENS__AUDIENCE", '"quoted"', "tokens.audience", "quoted"),
        ("NOTIFIER_TOKENS__AUDIENCE", "'quoted'", "tokens.audience", "quoted"),
        ("NOTIFIER_TOKENS__AUDIENCE", '"half', "tokens.audience", '"half'),
        ("NOTIFIER_TOKENS__ISSUER", "", "tokens.issuer", None),
        ("NOTIFIER_LOG__LEVEL", "warn", "log.level", "warn"),
        ("NOTIFIER_DEAD_LETTERS__PER_REASON", "20_000", "dead_letters.per_reason", 20_000),
        ("NOTIFIER_FANOUT__LEASE_SECONDS", "4", "fanout.lease_seconds", 4.0),
        ("NOTIFIER_EVENTS__TYPES", '["a", "b"]', "events.types", ("a", "b")),
        ("NOTIFIER_WEBSOCKET__ORIGINS", "[]", "websocket.origins", ()),
    ],
)
def test_a_variable_is_text_or_toml(
    read: Callable[..., Config], variable: str, text: str, path: str, value: object
) -> None:
    got = read('[tokens]\nissuer = "someone"\n[websocket]\norigins = ["*"]', **{variable: text})
    assert operator.attrgetter(path)(got) == value


def test_a_variable_hides_a_fault_in_the_file(read: Callable[..., Config]) -> None:
    assert read("[redis]\nshards = 0", NOTIFIER_REDIS__SHARDS="2").redis.shards == 2


@pytest.mark.parametrize(
    "variable", ["NOTIFIER_PORT", "NOTIFIER_SERVICE_HOST", "NOTIFIER_PORT_8081_TCP", "notifier_name"]
)
def test_variables_of_the_platform_are_left_alone(read: Callable[..., Config], variable: str) -> None:
    assert read("", **{variable: "tcp://10.0.0.1:80"}) == Config()


def test_a_byte_order_mark_and_windows_line_ends_are_forgiven(tmp_path: Path) -> None:
    (tmp_path / "n.toml").write_bytes(b'\xef\xbb\xbfname = "east"\r\n[redis]\r\nshards = 2\r\n')
    assert load(tmp_path / "n.toml", {}).redis.shards == 2


# --- Faults ------------------------------------------------------------------------------------------


def test_all_faults_at_once(faults: Check) -> None:
    text = 'nam = 1\nredis = 5\n[events]\ntypes = ["A", "ok", 3]\nbtach = 1\n[inbox]\npage = true\n[logs]\n'
    assert faults(text, NOTIFIER_API__BODY_BYTES="big", NOTIFIER_APIS__LISTEN="x") == {
        "nam": "unknown setting; did you mean name?",
        "redis": "found a whole number, expected a table that begins with [redis]",
        "events.types[0]": 'found "A", expected 1 to 32 characters of a-z 0-9 _, a letter first',
        "events.types[2]": "found 3, expected 1 to 32 characters of a-z 0-9 _, a letter first",
        "events.btach": "unknown setting; did you mean fanout.batch?",
        "inbox.page": "found true, expected a whole number from 1 to 256",
        "logs": "unknown setting; did you mean log?",
        "NOTIFIER_API__BODY_BYTES": 'found "big", expected a whole number from 1024 to 16_777_216',
        "NOTIFIER_APIS__LISTEN": "unknown variable; did you mean NOTIFIER_API__LISTEN?",
    }


def test_the_error_reads_as_a_list(read: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError) as caught:
        read("[redis]\nshards = 65\n[log]\nlevel = 'loud'")
    assert str(caught.value).splitlines() == [
        "2 faults in the configuration:",
        "  redis.shards: found 65, expected a whole number from 1 to 64",
        '  log.level: found "loud", expected one of "debug", "info", "warn", "error"',
    ]


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("[redis]\nbtach = 1", "redis.btach", "did you mean fanout.batch?"),
        ("[redis]\nqqq = 1", "redis.qqq", "unknown setting; known are url, username,"),
        ("[fanout]\nbtach = 1", "fanout.btach", "did you mean fanout.batch?"),
        ("[redis]\npassword = 'x'", "redis.password", "did you mean redis.password_file?"),
        ("[redis]\ncap = 1", "redis.cap", "did you mean inbox.cap?"),
        ("shards = 1", "shards", "did you mean redis.shards?"),
        ('"redis.url" = "redis://h"', '"redis.url"', "unknown setting"),
        ('[redis]\n"a\\nb" = 1', 'redis."a\\nb"', "unknown setting"),
        ('"" = 1', '""', "unknown setting"),
        ("[[redis]]\nshards = 1", "redis", "found a list of 1, expected a table"),
        ("zzz = 1", "zzz", "known are name, redis, events"),
    ],
)
def test_unknown_names(faults: Check, text: str, path: str, message: str) -> None:
    found = faults(text)
    assert list(found) == [path]
    assert message in found[path]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("name", '"a b"', 'found "a b", expected 1 to 64 characters'),
        ("name", '"a\\n"', 'found "a\\n", expected'),
        ("name", '"' + "a" * 65 + '"', 'a...", expected 1 to 64 characters'),
        ("name", "5", "found 5, expected 1 to 64 characters"),
        ("redis.shards", "0", "found 0"),
        ("redis.shards", "1.0", "found 1.0, expected a whole number"),
        ("redis.shards", '"1"', 'found "1", expected a whole number'),
        ("redis.shards", "1979-05-27", "found 1979-05-27"),
        ("redis.shards", "9" * 100, "found an enormous number"),
        ("redis.shards", "{a = 1}", "found a table"),
        ("redis.timeout_seconds", "nan", "found nan, expected a number from 0.1 to 60"),
        ("redis.timeout_seconds", "inf", "found inf"),
        ("redis.timeout_seconds", "9" * 400, "found an enormous number"),
        ("redis.timeout_seconds", "true", "found true"),
        ("redis.username", '""', 'found "", expected text'),
        ("events.types", "[]", "found a list of 0, expected a list of 1 to 64 items"),
        ("events.types", '"like"', 'found "like", expected a list'),
        ("events.types", '["like", "unlike"]', '"unlike" cannot be a type'),
        ("events.types", '["like", "like"]', '"like" is in the list twice'),
        ("websocket.listen", '""', "expected a Twisted server endpoint"),
        ("websocket.listen", '"8081"', "expected a Twisted server endpoint"),
        ("websocket.path", '"v1"', "expected a URL path"),
        ("websocket.path", '"/a?b"', "expected a URL path"),
        ("log.format", '"xml"', 'expected one of "json", "text"'),
        ("tokens.max_life_hours", "25", "from 1 to 24"),
        ("tokens.jwks_url", '"http://example.com/jwks"', "expected an https:// URL"),
        ("tokens.jwks_url", '"https://example.com/jwks#a"', "expected an https:// URL"),
        ("tokens.jwks_url", '"https:///jwks"', "expected an https:// URL"),
        ("redis.url", '"redis:///0"', "expected redis://host:port/db"),
        ("redis.url", '"http://h"', "expected redis://host:port/db"),
        ("redis.url", '"redis://h:0"', "not a URL"),
        ("redis.url", '"redis://h:99999"', "not a URL"),
        ("redis.url", '"redis://[::1"', "not a URL"),
        ("redis.url", '"redis://a b"', "not a URL"),
        ("redis.url", '"redis://h/zero"', "number of a database"),
        ("redis.url", '"redis://h/0/1"', "number of a database"),
        ("redis.url", "5", "found a whole number, expected redis://host:port/db"),
    ],
)
def test_refused_values(faults: Check, path: str, value: str, message: str) -> None:
    section, _, name = path.rpartition(".")
    found = faults(f"[{section}]\n{name} = {value}" if section else f"{name} = {value}")
    assert list(found) == [path]
    assert message in found[path]


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        ("https://example.com/", 'write "https://example.com"'),
        ("https://example.com:443", 'write "https://example.com"'),
        ("HTTPS://Example.com", 'write "https://example.com"'),
        ("http://example.com/path?x", 'write "http://example.com"'),
        ("example.com", "expected scheme://host"),
        ("null", "expected scheme://host"),
        ("https://*.example.com", "not a URL"),
        ("https://me@example.com", "expected scheme://host"),
        ("https://bücher.example", "xn--"),
        ("https://example.com:x", "not a URL"),
    ],
)
def test_refused_origins(faults: Check, origin: str, message: str) -> None:
    for section in ("websocket", "api"):
        found = faults(f'[{section}]\norigins = ["*", "{origin}"]')
        assert list(found) == [f"{section}.origins[1]"]
        assert message in found[f"{section}.origins[1]"]


def test_accepted_origins(read: Callable[..., Config]) -> None:
    good = (
        "*",
        "https://example.com",
        "http://localhost:3000",
        "capacitor://localhost",
        "https://[::1]:8443",
    )
    assert read(f"[websocket]\norigins = {list(good)}").websocket.origins == good


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("redis://h", "redis://h:6379/0"),
        ("redis://h/", "redis://h:6379/0"),
        ("rediss://Cache.Example.com:7000/15", "rediss://cache.example.com:7000/15"),
        ("redis://[::1]:7000", "redis://[::1]:7000/0"),
    ],
)
def test_the_redis_url_is_completed(read: Callable[..., Config], given: str, kept: str) -> None:
    assert read(NOTIFIER_REDIS__URL=given).redis.url == kept


def test_jwks_may_be_plain_http_on_this_machine(read: Callable[..., Config]) -> None:
    url = "http://127.0.0.1:9/jwks"
    assert read(NOTIFIER_TOKENS__JWKS_URL=url).tokens.jwks_url == url


def test_networks(read: Callable[..., Config], faults: Check) -> None:
    good = read('[limits]\ntrusted_proxies = ["10.1.2.3", "fd00::/8"]')
    assert good.limits.trusted_proxies == ("10.1.2.3/32", "fd00::/8")
    assert faults('[limits]\ntrusted_proxies = ["10.0.0.1/8", "proxy"]') == {
        "limits.trusted_proxies[0]": (
            'found "10.0.0.1/8", which has bits set behind the prefix: write "10.0.0.0/8"'
        ),
        "limits.trusted_proxies[1]": (
            'found "proxy", expected an address or a network such as 10.0.0.0/8 or fd00::/8'
        ),
    }


def test_keys(read: Callable[..., Config], faults: Check, folder: Path) -> None:
    one = '{kid = "a", algorithm = "EdDSA", file = "2026-11.pub"}'
    got = read(NOTIFIER_TOKENS__KEYS=f"[{one}]")
    assert got.tokens.keys == (Key("a", "EdDSA", str(folder / "2026-11.pub")),)
    assert faults(NOTIFIER_TOKENS__KEYS=f"[{one}, {one}]") == {
        "NOTIFIER_TOKENS__KEYS": 'kid "a" names 2 keys: each needs a name of its own'
    }
    bad = "[[tokens.keys]]\nkid = ''\nalgorithm = 'none'\npath = 'x'\n[[tokens.keys]]\n"
    assert faults(bad) == {
        "tokens.keys[0].path": "unknown setting; known are kid, algorithm, file",
        "tokens.keys[0].file": "missing, expected the path of a file",
        "tokens.keys[0].kid": 'found "", expected 1 to 128 printable ASCII characters without spaces',
        "tokens.keys[0].algorithm": 'found "none", expected one of "EdDSA", "ES256", "RS256", "HS256"',
        "tokens.keys[1].kid": "missing, expected 1 to 128 printable ASCII characters without spaces",
        "tokens.keys[1].algorithm": 'missing, expected one of "EdDSA", "ES256", "RS256", "HS256"',
        "tokens.keys[1].file": "missing, expected the path of a file",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found"),
        ("1\nb = 2", "found"),
        ("1\n[limits]\nper_user = 9", "found"),
        ("[" * 5000, "found"),
        ("1 # two", ""),
    ],
)
def test_a_variable_cannot_smuggle(
    read: Callable[..., Config], faults: Check, text: str, message: str
) -> None:
    if not message:
        assert read(NOTIFIER_REDIS__SHARDS=text) == Config()
        return
    found = faults(NOTIFIER_REDIS__SHARDS=text)
    assert list(found) == ["NOTIFIER_REDIS__SHARDS"]
    assert message in found["NOTIFIER_REDIS__SHARDS"]


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("NOTIFIER_REDIS_URL", "did you mean NOTIFIER_REDIS__URL, with two underscores?"),
        ("NOTIFIER_REDIS__URI", "did you mean NOTIFIER_REDIS__URL?"),
        ("NOTIFIER_Redis__shards", "unknown variable"),
        ("NOTIFIER_QQQQ__WWWWWW\udcff", "unknown variable; names are NOTIFIER_SECTION__SETTING"),
    ],
)
def test_unknown_variables(faults: Check, variable: str, message: str) -> None:
    ((path, said),) = faults(**{variable: SECRET}).items()
    assert path == variable.replace("\udcff", "\\udcff")
    assert message in said
    assert SECRET not in said


# --- Files that cannot be read -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "where", "message"),
    [
        (b"[redis]\nshards = = 4\n", ":2", "this is not TOML: Invalid value (at line 2, column 10)"),
        (b"[redis]\nshards = ", "", "this is not TOML"),
        (b"a = 1\n\nb = '\xff'\n", ":3", "this is not UTF-8"),
        (b"a = " + b"[" * 100_000, "", "this is not TOML"),
    ],
)
def test_broken_files(tmp_path: Path, content: bytes, where: str, message: str) -> None:
    file = tmp_path / "n.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(file, {"NOTIFIER_REDIS__SHARDS": "0"})
    first, second = caught.value.faults
    assert first.path == f"{file}{where}"
    assert message in first.message
    assert second.path == "NOTIFIER_REDIS__SHARDS"


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file; `notifier config default`") as caught:
        load(tmp_path / "none.toml", {})
    assert caught.value.faults[0].path == str(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path, {})


def test_without_the_file_nothing_is_compared(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "none.toml", {"NOTIFIER_WEBSOCKET__PING_SECONDS": "5"})
    assert len(caught.value.faults) == 1


# --- Secrets -----------------------------------------------------------------------------------------


def test_files_are_looked_up_in_the_credentials_then_beside_the_file(folder: Path) -> None:
    vault = folder / "vault"
    vault.mkdir()
    (vault / "redis.password").touch()
    (folder / "n.toml").write_text(
        "[redis]\npassword_file = 'redis.password'\n[tokens]\njwks_file = 'jwks.json'"
    )
    got = load(folder / "n.toml", {"CREDENTIALS_DIRECTORY": str(vault)})
    assert got.redis.password_file == str(vault / "redis.password")
    assert got.tokens.jwks_file == str(folder / "jwks.json")
    assert load(folder / "n.toml", {}).redis.password_file == str(folder / "redis.password")
    assert load(folder / "n.toml", {"CREDENTIALS_DIRECTORY": ""}).redis.password_file


def test_relative_paths_become_absolute(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "n.toml").write_text("[redis]\npassword_file = 'redis.password'")
    monkeypatch.chdir(folder)
    expected = str(folder / "redis.password")
    assert load(Path("n.toml"), {}).redis.password_file == expected
    assert load(None, {"NOTIFIER_REDIS__PASSWORD_FILE": "redis.password"}).redis.password_file == expected
    assert load(None, {"NOTIFIER_REDIS__PASSWORD_FILE": expected}).redis.password_file == expected


def test_a_missing_secret_names_every_place(folder: Path) -> None:
    environ = {"CREDENTIALS_DIRECTORY": "/run/vault", "NOTIFIER_REDIS__PASSWORD_FILE": "x" * 80}
    (folder / "n.toml").touch()
    with pytest.raises(ConfigError) as caught:
        load(folder / "n.toml", environ)
    (fault,) = caught.value.faults
    assert fault.path == "NOTIFIER_REDIS__PASSWORD_FILE"
    assert f'"/run/vault/{"x" * 80}" nor "{folder}/{"x" * 80}"' in fault.message


@pytest.mark.parametrize("name", [".", "x" * 5000])
def test_what_is_no_file_is_refused(faults: Check, name: str) -> None:
    assert list(faults(NOTIFIER_REDIS__PASSWORD_FILE=name)) == ["NOTIFIER_REDIS__PASSWORD_FILE"]


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}@h:6379/0",
        f"redis://user:{SECRET}@h",
        f"redis://{SECRET}@h",
        f"redis://:{SECRET}/x@h",
        f"redis://:{SECRET}#@h:6379",
        f"redis://:{SECRET}%40h:6379",
        f"redis://{SECRET}%40h:6379",
        f"redis://h:6379/0?password={SECRET}",
        f"redis://h:6379/{SECRET}",
        f"redis://h:{SECRET}",
        f"{SECRET}://h",
        f"redis://[{SECRET}",
        f"{SECRET}\n",
    ],
)
def test_a_password_in_the_url_is_refused_and_not_repeated(
    faults: Check, read: Callable[..., Config], url: str
) -> None:
    found = faults(NOTIFIER_REDIS__URL=url)
    assert list(found) == ["NOTIFIER_REDIS__URL"]
    assert SECRET not in found["NOTIFIER_REDIS__URL"]
    if "@" in url:
        assert "password_file" in found["NOTIFIER_REDIS__URL"]


@pytest.mark.parametrize(
    "text",
    [
        f"[redis]\npassword = '{SECRET}'",
        f"[redis]\npassword_file = '''-----BEGIN\n{SECRET}'''",
        f"[redis]\npassword_file = ['{SECRET}']",
        f"[tokens]\nkeys = '{SECRET}'",
        f"[tokens]\nkeys = ['{SECRET}']",
        f"[tokens]\njwks_url = 'https://me:{SECRET}@h/jwks'",
        f"[[tokens.keys]]\nkid = 'a'\nalgorithm = 'HS256'\nfile = '''\n{SECRET}\n'''",
        f"[[tokens.keys]]\nkid = 'a'\nalgorithm = 'HS256'\nsecret = '{SECRET}'",
        f"redis = '{SECRET}'",
        f"secret = '{SECRET}'",
        f"[redis]\npassword = '{SECRET}",
    ],
)
def test_a_misplaced_secret_is_not_repeated(read: Callable[..., Config], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)


# --- Apps and types --------------------------------------------------------------------------------------

APNS_KEY = 'key_file = "AuthKey_ABC1234567.p8"\nkey_id = "ABC1234567"\nteam_id = "TEAM123456"\n'
TOPIC = '[apps.photos.apns]\ntopic = "com.example.photos"\n'


def test_apps_by_name(read: Callable[..., Config], folder: Path) -> None:
    text = f"{TOPIC}{APNS_KEY}[apps.photos.fcm]\nservice_account_file = 'firebase.json'\n[apps.Web-2.fcm]\n"
    apps = read(f"{text}service_account_file = 'firebase.json'\nurl = 'https://127.0.0.1:9'").apps
    assert list(apps) == ["photos", "Web-2"]
    photos = apps["photos"]
    assert photos.apns == Apns(
        "com.example.photos", str(folder / "AuthKey_ABC1234567.p8"), "ABC1234567", "TEAM123456"
    )
    assert photos.fcm == Fcm(str(folder / "firebase.json"))
    assert photos.gcm is None
    assert apps["Web-2"].fcm is not None
    assert apps["Web-2"].fcm.url == "https://127.0.0.1:9"


def test_apps_by_the_environment(read: Callable[..., Config]) -> None:
    given = '{photos = {fcm = {service_account_file = "firebase.json"}}}'
    assert list(read(NOTIFIER_APPS=given).apps) == ["photos"]


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        (TOPIC, "apps.photos.apns", "expected key_file, key_id and team_id, or certificate_file"),
        (TOPIC + 'key_id = "ABC1234567"', "apps.photos.apns", "key_file, key_id and team_id go together"),
        (TOPIC + APNS_KEY + "certificate_file = 'photos.p12'", "apps.photos.apns", "two ways"),
        (TOPIC + APNS_KEY + "password_file = 'photos.password'", "apps.photos.apns", "no password"),
        ("[apps.photos.apns]\n" + APNS_KEY, "apps.photos.apns.topic", "missing, expected a bundle id"),
        (TOPIC + APNS_KEY.replace("TEAM123456", "team"), "apps.photos.apns.team_id", "10 capital letters"),
        (TOPIC + "key = 1\n" + APNS_KEY, "apps.photos.apns.key", "did you mean apps.photos.apns.key_"),
        ("[apps.photos]", "apps.photos", "expected a table for a provider"),
        ("[apps.photos]\napsn = {}", "apps.photos.apsn", "did you mean apps.photos.apns?"),
        ("[apps.'no blank'.fcm]\nservice_account_file = 'firebase.json'", 'apps."no blank"', "1 to 32 characters"),
        ("apps = 1", "apps", "expected up to 64 tables by name"),
        ("[types.lik]", "types.lik", "did you mean types.like?"),
        ("[types.zebra]", "types.zebra", "events.types has follow, like, comment"),
        ("[types.like]\npush = 'unseen'", "types.like.push", 'one of "offline", "always", "off"'),
        ("[types.like]\nttl_seconds = 0", "types.like.ttl_seconds", "from 1 to 2_419_200"),
        ("[push]\ntoken_hosts = ['127.0.0.1']", "push.token_hosts[0]", "expected a host"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_app_or_a_type(faults: Check, text: str, path: str, message: str) -> None:
    found = faults(text)
    assert list(found) == [path]
    assert message in found[path]


def test_an_app_has_one_way_to_android(faults: Check) -> None:
    text = "[apps.a.fcm]\nservice_account_file = 'firebase.json'\n[apps.a.gcm]\nkey_file = 'gateway.key'\n"
    assert "keep gcm only" in faults(text + "url = 'https://push.example.com/'")["apps.a"]


def test_types_of_ones_own_have_pushes_too(read: Callable[..., Config]) -> None:
    text = "[events]\ntypes = ['wave']\n[types.wave]\npush = 'always'\nhidden = 'on'\nsound = ''"
    assert read(text).types == {"wave": TypePush(push="always", hidden="on", sound="")}


# --- Between settings --------------------------------------------------------------------------------

BROKEN: dict[tuple[str, str], Mapping[str, str]] = {
    ("redis.url", "redis.ca_file"): {"REDIS__CA_FILE": "redis-ca.pem"},
    ("redis.password_file", "redis.username"): {"REDIS__USERNAME": "me"},
    ("fanout.batch_bytes", "events.max_bytes"): {"FANOUT__BATCH_BYTES": "16383"},
    ("fanout.lease_seconds", "fanout.poll_ms"): {"FANOUT__LEASE_SECONDS": "0.5"},
    ("fanout.claim_seconds", "fanout.lease_seconds"): {"FANOUT__CLAIM_SECONDS": "2.9"},
    ("websocket.pong_seconds", "websocket.ping_seconds"): {"WEBSOCKET__PONG_SECONDS": "25"},
    ("api.listen", "websocket.listen"): {"API__LISTEN": "tcp:8081:interface=127.0.0.1"},
    ("admin.listen", "websocket.listen"): {"ADMIN__LISTEN": "tcp:8081:interface=127.0.0.1"},
    ("admin.listen", "api.listen"): {"ADMIN__LISTEN": "tcp:8082:interface=127.0.0.1"},
    ("api.events_bytes", "events.max_bytes"): {"API__EVENTS_BYTES": "16383"},
    ("limits.unsent_bytes", "events.max_bytes"): {
        "EVENTS__MAX_BYTES": "16385",
        "LIMITS__UNSENT_BYTES": "65536",
    },
    ("limits.unauthenticated_bytes", "limits.message_bytes"): {"LIMITS__UNAUTHENTICATED_BYTES": "16385"},
    ("inbox.page", "limits.window"): {"INBOX__PAGE": "101", "LIMITS__WINDOW": "100"},
    ("push.breaker_floor_seconds", "push.breaker_cap_seconds"): {"PUSH__BREAKER_CAP_SECONDS": "0.4"},
    ("drain.seconds", "drain.timeout_seconds"): {"DRAIN__SECONDS": "30.5"},
}
KEPT = {
    "FANOUT__BATCH_BYTES": "16384",
    "FANOUT__LEASE_SECONDS": "0.6",
    "FANOUT__CLAIM_SECONDS": "0.6",
    "WEBSOCKET__PONG_SECONDS": "24",
    "API__EVENTS_BYTES": "16384",
    "LIMITS__UNSENT_BYTES": "65536",
    "LIMITS__UNAUTHENTICATED_BYTES": "16384",
    "INBOX__PAGE": "100",
    "LIMITS__WINDOW": "100",
    "DRAIN__SECONDS": "30",
    "REDIS__URL": "rediss://h",
    "REDIS__CA_FILE": "redis-ca.pem",
    "REDIS__USERNAME": "me",
    "REDIS__PASSWORD_FILE": "redis.password",
}


@pytest.mark.parametrize("rule", config._RULES, ids=lambda rule: f"{rule.path}-{rule.other}")
def test_each_rule_bites(faults: Check, rule: Any) -> None:
    environ = {f"NOTIFIER_{name}": value for name, value in BROKEN[rule.path, rule.other].items()}
    ((path, message),) = faults(**environ).items()
    assert path in environ or (path == rule.path and "(the default)" in message)
    assert f"{rule.other} = " in message
    assert message.endswith(rule.why)


def test_each_rule_has_its_case() -> None:
    assert [(rule.path, rule.other) for rule in config._RULES] == list(BROKEN)


def test_the_rules_let_their_bounds_pass(read: Callable[..., Config]) -> None:
    environ = {f"NOTIFIER_{name}": value for name, value in KEPT.items()}
    environ["NOTIFIER_FANOUT__CLAIM_SECONDS"] = "1"
    assert read(**environ).fanout.lease_seconds == 0.6


def test_a_rule_says_what_it_compared(faults: Check) -> None:
    assert faults("[websocket]\nping_seconds = 10") == {
        "websocket.pong_seconds": (
            "found 20 (the default), must be less than websocket.ping_seconds = 10: "
            "a pong is due before the next ping"
        )
    }
    assert faults(NOTIFIER_REDIS__USERNAME="me") == {
        "redis.password_file": (
            'found nothing (the default), must be set together with redis.username = "me": '
            "Redis takes a user only together with a password"
        )
    }


def test_a_faulty_setting_is_not_compared(faults: Check) -> None:
    assert list(faults("[websocket]\nping_seconds = 0\npong_seconds = 30")) == ["websocket.ping_seconds"]


@pytest.mark.parametrize("listen", ["tcp:0", "tcp:port=0:interface=127.0.0.1"])
def test_listeners_may_all_take_a_free_port(read: Callable[..., Config], listen: str) -> None:
    names = ("WEBSOCKET", "API", "ADMIN")
    assert read(**{f"NOTIFIER_{name}__LISTEN": listen for name in names}).api.listen == listen


@pytest.mark.parametrize(
    ("one", "two", "both"),
    [
        ("tcp:8081", "tcp:8081:interface=127.0.0.1", False),
        ("tcp:8081:interface=127.0.0.1", "tcp:port=8081:interface=0.0.0.0", False),
        ("tcp:08081:interface=127.0.0.1", "ssl:8081:interface=127.0.0.1:privateKey=a.pem", False),
        ("tcp6:8081:interface=\\:\\:1", "tcp:8081:interface=\\:\\:1", False),
        ("tcp6:8081:interface=\\:\\:", "tcp:8081:interface=127.0.0.1", False),
        ("systemd:domain=INET:name=a", "systemd:domain=INET:name=a", False),
        ("unix:/run/a", "unix:/run/a", False),
        ("tcp:8081:interface=127.0.0.1", "tcp:8081:interface=127.0.0.2", True),
        ("tcp:8081", "tcp:8082", True),
        ("tcp:00", "tcp:0", True),
        ("systemd:domain=INET:name=a", "systemd:domain=INET:name=b", True),
        ("unix:/run/8081", "tcp:8081", True),
        ("haproxy:tcp:8081", "tcp:8081", True),
    ],
)
def test_two_listeners_at_one_address(
    read: Callable[..., Config], faults: Check, one: str, two: str, both: bool
) -> None:
    given = {"NOTIFIER_WEBSOCKET__LISTEN": one, "NOTIFIER_API__LISTEN": two}
    if both:
        assert read(**given).api.listen == two
    else:
        assert list(faults(**given)) == ["NOTIFIER_API__LISTEN"]


# --- Anything ----------------------------------------------------------------------------------------

_leaf = st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.dates()
_value = _leaf | st.lists(_leaf, max_size=3) | st.dictionaries(st.text(max_size=5), _leaf, max_size=3)
_name = st.sampled_from([setting.path for setting in SETTINGS])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(_name, _value), max_size=6).map(dict))
def test_any_value_is_kept_or_refused(given: dict[str, Any]) -> None:
    """What the checks let pass, msgspec takes too: the two never disagree."""
    reader = config._Reader([Path("/")])
    values = {path: reader.value(config._SETTINGS[path].shape, raw, path) for path, raw in given.items()}
    if not reader.faults:
        assert isinstance(config._built(values), Config)
    assert all(fault.path and fault.message.isprintable() for fault in reader.faults)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(config._VARIABLES)), st.text()), max_size=6).map(dict))
def test_any_environment_is_kept_or_refused(environ: dict[str, str]) -> None:
    try:
        load(None, environ)
    except ConfigError as error:
        assert error.faults
        assert str(error).replace("\n", "").isprintable()
