"""Configuration through ``resolve`` and ``Settings``: precedence, origins, one clear refusal for whatever is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet.errors import ExitCode, Reason, UsageError
from crabnet.settings import KNOBS, RESERVED_ENV, FlagValue, Settings, resolve, split_address
from crabnet.settings.kinds import TextKind
from crabnet.settings.knob import Knob, Row

NONE: Mapping[str, str] = {}


def toml_file(tmp_path: Path, text: str | bytes, name: str = "some.toml") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(flags: Mapping[str, FlagValue], environ: Mapping[str, str], path: Path | None = None) -> UsageError:
    with pytest.raises(UsageError) as caught:
        resolve(flags, environ, path)
    assert caught.value.exit_code is ExitCode.USAGE
    assert "\n" not in caught.value.message
    return caught.value


def test_defaults_are_the_documented_baseline_values() -> None:
    settings = resolve({}, {"HOME": "/nowhere"}, None).settings
    assert settings.data_dir == Path("~/.crabnet").expanduser()
    assert settings.listen_addr == "0.0.0.0:9012"
    assert settings.message_ttl_s == 43_200
    assert settings.seen_messages_capacity == 10_000
    assert settings.udp_source_block_ms == 3_000
    assert settings.runner_allowed_commands == ("echo", "printf", "pwd", "ls", "cat", "sleep", "true", "false", "cd")
    assert settings.runner_max_command_len == 4_096
    assert settings.runner_max_output_bytes == 131_072
    assert settings.runner_timeout_kill_wait_ms == 1_000
    assert settings.monitor_events == settings.data_dir / "events.ndjson"
    assert settings.udp_broadcasts_per_sec > 0
    assert settings.udp_source_fast_fail_threshold_per_sec > 0


@pytest.mark.parametrize(
    ("env", "attribute"),
    [
        ("CRABNET_MESSAGE_TTL_S", "message_ttl_s"),
        ("CRABNET_MESSAGE_TTL_SECONDS", "message_ttl_s"),
        ("CRABNET_SEEN_MESSAGES_TTL_SECONDS", "seen_messages_ttl_s"),
        ("CRABNET_SEEN_MESSAGES_CAPACITY", "seen_messages_capacity"),
        ("CRABNET_UDP_BROADCASTS_PER_SEC", "udp_broadcasts_per_sec"),
        ("CRABNET_UDP_SOURCE_FAST_FAIL_THRESHOLD_PER_SEC", "udp_source_fast_fail_threshold_per_sec"),
        ("CRABNET_UDP_SOURCE_BLOCK_MS", "udp_source_block_ms"),
        ("CRABNET_RUNNER_MAX_COMMAND_LEN", "runner_max_command_len"),
        ("CRABNET_RUNNER_MAX_OUTPUT_BYTES", "runner_max_output_bytes"),
        ("CRABNET_RUNNER_TIMEOUT_KILL_WAIT_MS", "runner_timeout_kill_wait_ms"),
    ],
)
def test_baseline_environment_names_keep_their_meaning(env: str, attribute: str) -> None:
    resolved = resolve({}, {env: "50000"}, None)
    assert getattr(resolved.settings, attribute) == 50_000
    assert resolved.origins[attribute] == f"environment {env}"


def test_baseline_runner_lists_and_directories() -> None:
    environ = {
        "CRABNET_RUNNER_ALLOWED_COMMANDS": "echo, cat",
        "CRABNET_RUNNER_WORKDIR": "/srv/tasks/a",
        "CRABNET_RUNNER_WORKDIR_ROOT": "/srv/tasks",
    }
    settings = resolve({}, environ, None).settings
    assert settings.runner_allowed_commands == ("echo", "cat")
    assert settings.runner_workdir == Path("/srv/tasks/a")
    assert settings.runner_workdir_root == Path("/srv/tasks")


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    path = toml_file(tmp_path, 'alias = "file"\nparked_ttl_s = 7\nfuture_skew_s = 8\n')
    environ = {"CRABNET_ALIAS": "env", "CRABNET_PARKED_TTL_SECONDS": "9"}
    resolved = resolve({"alias": "flag", "namespace": None}, environ, path)
    settings = resolved.settings
    assert (settings.alias, settings.parked_ttl_s, settings.future_skew_s) == ("flag", 9, 8)
    assert resolved.origins["alias"] == "flag --alias"
    assert resolved.origins["parked_ttl_s"] == "environment CRABNET_PARKED_TTL_SECONDS"
    assert resolved.origins["future_skew_s"] == f"file {path}"
    assert resolved.origins["namespace"] == "default"
    assert resolved.origins.keys() == {knob.name for knob in KNOBS}


def test_which_file_is_read(tmp_path: Path) -> None:
    in_data_dir = toml_file(tmp_path, 'alias = "data dir"', "crabnet.toml")
    named = toml_file(tmp_path, 'alias = "named"', "a.toml")
    flagged = toml_file(tmp_path, 'alias = "flagged"', "b.toml")
    flags: dict[str, FlagValue] = {"data_dir": str(tmp_path)}
    environ = {"CRABNET_CONFIG": str(named)}
    assert resolve(flags, NONE, None).config_path == in_data_dir
    assert resolve(flags, NONE, None).settings.alias == "data dir"
    assert resolve(flags, environ, None).settings.alias == "named"
    assert resolve(flags, environ, flagged).settings.alias == "flagged"


def test_a_named_file_may_set_the_data_dir_but_not_one_in_the_data_dir(tmp_path: Path) -> None:
    path = toml_file(tmp_path, 'data_dir = "data"')
    assert resolve({}, NONE, path).settings.data_dir == tmp_path / "data"
    toml_file(tmp_path, 'data_dir = "data"', "crabnet.toml")
    assert "data_dir cannot be set" in refusal({"data_dir": str(tmp_path)}, NONE).message


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = toml_file(tmp_path, 'runner_workdir = "inside"\n', "c.toml")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    settings = resolve({"data_dir": "d", "monitor_events": "e/events.ndjson"}, NONE, path).settings
    assert settings.data_dir == tmp_path / "sub" / "d"
    assert settings.monitor_events == tmp_path / "sub" / "e" / "events.ndjson"
    assert settings.runner_workdir == tmp_path / "inside"


def test_lists_from_repeated_flags_commas_and_toml(tmp_path: Path) -> None:
    flags: dict[str, FlagValue] = {"announce_addrs": ["a.example:1,[::1]:2", "a.example:1", "b:3"]}
    assert resolve(flags, NONE, None).settings.announce_addrs == ("a.example:1", "[::1]:2", "b:3")
    assert resolve({}, {"CRABNET_ANNOUNCE_ADDRS": ""}, None).settings.announce_addrs == ()
    path = toml_file(tmp_path, 'bootstrap_peers = ["a:1", "b:2"]')
    assert resolve({}, NONE, path).settings.bootstrap_peers == ("a:1", "b:2")


BAD_VALUES: list[tuple[str, str]] = [
    ("alias", ""),
    ("alias", "two\nlines"),
    ("alias", "esc\x1b[31m"),
    ("alias", "bidi\u202e"),
    ("alias", "x" * 65),
    ("namespace", ""),
    ("namespace", "a/b"),
    ("namespace", "-a"),
    ("namespace", "n" * 65),
    ("network", "tcp"),
    ("listen_addr", ""),
    ("listen_addr", "9012"),
    ("listen_addr", "0.0.0.0"),
    ("listen_addr", "0.0.0.0:"),
    ("listen_addr", ":9012"),
    ("listen_addr", "0.0.0.0:65536"),
    ("listen_addr", "0.0.0.0:-1"),
    ("listen_addr", "0.0.0.0:9x"),
    ("listen_addr", "0.0.0.0:\uff19\uff10"),
    ("listen_addr", "256.0.0.1:9012"),
    ("listen_addr", "1.2.3:9012"),
    ("listen_addr", "01.2.3.4:9012"),
    ("listen_addr", "::1:9012"),
    ("listen_addr", "[::1]"),
    ("listen_addr", "[::g]:9012"),
    ("listen_addr", "[::1%]:9012"),
    ("listen_addr", "host name:1"),
    ("listen_addr", "-host:1"),
    ("listen_addr", "udp://1.2.3.4:9012"),
    ("listen_addr", "1.2.3.4:1,"),
    ("listen_addr", "1.2.3.4:1,5.6.7.8"),
    ("listen_addr", ",".join(f"10.0.0.1:{port}" for port in range(1, 10))),
    ("announce_addrs", "1.2.3.4:0"),
    ("announce_addrs", "1.2.3.4:1,,1.2.3.4:2"),
    ("announce_addrs", ",".join(f"10.0.0.1:{port}" for port in range(1, 400))),
    ("bootstrap_peers", "nonsense"),
    ("message_ttl_s", ""),
    ("message_ttl_s", "0"),
    ("message_ttl_s", "-5"),
    ("message_ttl_s", "1.5"),
    ("message_ttl_s", "1e3"),
    ("message_ttl_s", "0x10"),
    ("message_ttl_s", "1_000"),
    ("message_ttl_s", "12h"),
    ("message_ttl_s", "9" * 5_000),
    ("message_ttl_s", "99999999999999999999"),
    ("seen_messages_capacity", "0"),
    ("udp_broadcasts_per_sec", "-1"),
    ("udp_broadcasts_per_sec", "nan"),
    ("require_signatures", ""),
    ("require_signatures", "maybe"),
    ("runner_allowed_commands", "echo,two words"),
    ("runner_max_output_bytes", "131073"),
    ("data_dir", ""),
    ("data_dir", "bad\x00path"),
    ("data_dir", "~nosuchuser-crabnet/x"),
]


@pytest.mark.parametrize(("name", "text"), BAD_VALUES)
def test_bad_text_is_refused_naming_knob_and_origin(name: str, text: str) -> None:
    knob = next(knob for knob in KNOBS if knob.name == name)
    assert knob.env is not None
    for error, origin in (
        (refusal({name: text}, NONE), f"flag {knob.flag}"),
        (refusal({}, {knob.env: text}), f"environment {knob.env}"),
    ):
        assert error.reason is Reason.INVALID_CONFIG
        assert name in error.message
        assert origin in error.message
        assert len(error.message) < 600


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("message_ttl_s = '5'", "is a string, not an integer"),
        ("message_ttl_s = 5.0", "is a float, not an integer"),
        ("message_ttl_s = true", "is a boolean, not an integer"),
        ("message_ttl_s = []", "is an array, not an integer"),
        ("message_ttl_s = 2000-01-01", "is a date or time, not an integer"),
        ("message_ttl_s = 0", "out of range"),
        ("require_signatures = 1", "is an integer, not a boolean"),
        ("require_signatures = 'true'", "is a string, not a boolean"),
        ("alias = 3", "is an integer, not a string"),
        ("announce_addrs = 'a:1'", "is a string, not an array"),
        ("announce_addrs = [1]", "is an integer, not a string"),
        ("announce_addrs = ['x']", "has an item 'x'"),
        ("listen_addr = 'x'", "has no port"),
        ("[alias]\nx = 1", "is a table, not a string"),
        ("accept_feed_risk = true", "there is no setting 'accept_feed_risk'"),
        ("mesage_ttl_s = 5", "did you mean message_ttl_s?"),
        ("[network]\nlisten_addr = 'a:1'", "is a table"),
        ("alias = 'a'\nalias = 'b'", "not valid TOML"),
        ("alias =", "not valid TOML"),
        ("x = " + "[" * 100_000, "not valid TOML"),
        ("\x00", "not valid TOML"),
        (b"alias = '\xff'", "not valid TOML"),
        ("#" + "x" * (1024 * 1024), "more than"),
    ],
)
def test_bad_toml_is_refused_naming_the_file(tmp_path: Path, text: str | bytes, words: str) -> None:
    path = toml_file(tmp_path, text)
    error = refusal({}, NONE, path)
    assert error.reason is Reason.INVALID_CONFIG
    assert words in error.message
    assert str(path) in error.message


def test_a_bad_value_in_the_file_is_refused_even_when_a_flag_overrides_it(tmp_path: Path) -> None:
    path = toml_file(tmp_path, "alias = 3")
    assert "is an integer, not a string" in refusal({"alias": "fine"}, NONE, path).message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "cannot be read" in refusal({}, NONE, tmp_path / "absent.toml").message
    assert "not a regular file" in refusal({}, NONE, tmp_path).message
    assert "is an empty path" in refusal({}, {"CRABNET_CONFIG": ""}).message
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert "not a regular file" in refusal({}, NONE, fifo).message
    (tmp_path / "crabnet.toml").symlink_to(tmp_path / "gone")
    assert "cannot be read" in refusal({"data_dir": str(tmp_path)}, NONE).message


def test_unknown_environment_names_are_refused_with_a_hint() -> None:
    error = refusal({}, {"CRABNET_MESAGE_TTL_SECONDS": "5"})
    assert "did you mean CRABNET_MESSAGE_TTL_SECONDS?" in error.message
    assert error.reason is Reason.INVALID_CONFIG
    assert "no setting" in refusal({}, {"CRABNET_ACCEPT_FEED_RISK": "1"}).message
    resolve(
        {}, {**dict.fromkeys(RESERVED_ENV.keys() - {"CRABNET_CONFIG"}, "x"), "CRABNET_TEST_X": "1", "PATH": ""}, None
    )


def test_unknown_flags_are_refused() -> None:
    assert "no setting 'aliaz'" in refusal({"aliaz": "x"}, NONE).message


@pytest.mark.parametrize(
    ("flags", "reason", "words"),
    [
        ({"listen_addr": "/ip4/0.0.0.0/tcp/9012"}, Reason.INVALID_CONFIG, "add host:port"),
        ({"message_ttl_s": "86400"}, Reason.INVALID_CONFIG, "seen_messages_ttl_s: default, message_ttl_s: flag"),
        ({"monitor_events": "/a/b.ndjson"}, Reason.INVALID_CONFIG, "must be a file named events.ndjson"),
        ({"runner_workdir": "/a", "runner_workdir_root": "/b"}, Reason.INVALID_CONFIG, "not inside"),
        ({"runner_workdir": "/b/../a", "runner_workdir_root": "/b"}, Reason.INVALID_CONFIG, "not inside"),
    ],
)
def test_values_that_do_not_go_together(flags: dict[str, FlagValue], reason: Reason, words: str) -> None:
    error = refusal(flags, NONE)
    assert error.reason is reason
    assert words in error.message


def test_settings_made_by_a_program_are_checked_too(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, listen_addr="127.0.0.1:0")
    assert settings.monitor_events == tmp_path / "events.ndjson"
    wrong: list[Callable[[], Settings]] = [
        lambda: Settings(message_ttl_s=0),
        lambda: Settings(message_ttl_s=True),
        lambda: Settings(listen_addr="x"),
        lambda: Settings(announce_addrs=("x",)),
        lambda: Settings(message_ttl_s=100, seen_messages_ttl_s=100),
        lambda: Settings(network="dht,dht"),
    ]
    for make in wrong:
        with pytest.raises(UsageError):
            make()


def test_a_secret_is_never_shown_and_has_no_flag() -> None:
    knob = Knob("token", "", Row(TextKind(8), "node", "A token.", secret=True))
    assert knob.flag is None
    assert "hunter2" not in knob.shown("hunter2")


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("0.0.0.0:0", "0.0.0.0", 0),
        ("255.255.255.255:9012", "255.255.255.255", 9012),
        ("localhost:65535", "localhost", 65535),
        ("node-1.example.org:1", "node-1.example.org", 1),
        ("[::]:9012", "::", 9012),
        ("[fe80::1%eth0]:9012", "fe80::1%eth0", 9012),
        ("[::ffff:1.2.3.4]:5", "::ffff:1.2.3.4", 5),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert split_address(text) == (host, port)
    assert resolve({"listen_addr": text}, NONE, None).settings.listen_addr == text


def test_addresses_are_taken_as_commands_show_them() -> None:
    peer = "12D3KooW" + "A" * 44
    multiaddr = f"/ip4/192.0.2.1/tcp/9012/p2p/{peer}"
    given: dict[str, FlagValue] = {
        "bootstrap_peers": f"udp:192.0.2.1:9012,{multiaddr}",
        "announce_addrs": "udp:[::1]:9",
    }
    settings = resolve(given, NONE, None).settings
    assert settings.bootstrap_peers == ("192.0.2.1:9012", multiaddr)
    assert settings.announce_addrs == ("[::1]:9",)
    assert "`crabnet peers` shows the address" in refusal({"bootstrap_peers": f"p2p:{peer}"}, NONE).message


def test_each_transport_has_its_own_of_the_addresses() -> None:
    listen, peer = "0.0.0.0:1,/ip4/127.0.0.1/tcp/2", "/ip4/192.0.2.1/tcp/9"
    for network, udp, dht in (
        ("udp", ["0.0.0.0:1"], []),
        ("dht", [], ["/ip4/0.0.0.0/tcp/1", "/ip4/127.0.0.1/tcp/2"]),
        ("udp,dht", ["0.0.0.0:1"], ["/ip4/127.0.0.1/tcp/2"]),
    ):
        settings = Settings(network=network, listen_addr=listen, bootstrap_peers=("192.0.2.7:9", peer))
        assert (settings.listen_addrs, settings.dht_listen_addrs) == (udp, dht)
        assert settings.udp_bootstrap_peers == (["192.0.2.7:9"] if udp else [])
    both = Settings(network="udp,dht", listen_addr="127.0.0.1:1")
    assert (both.listen_addrs, both.dht_listen_addrs) == (["127.0.0.1:1"], ["/ip4/127.0.0.1/tcp/1"])


@given(st.text(max_size=60))
def test_no_text_makes_an_address_raise_anything_but_its_error(text: str) -> None:
    try:
        host, port = split_address(text)
    except UsageError:
        return
    else:
        assert host
        assert 0 <= port <= 65_535


@given(
    st.sampled_from([knob.name for knob in KNOBS]), st.text(max_size=40).filter(lambda text: not text.startswith("~"))
)
def test_no_text_of_any_knob_raises_anything_but_a_usage_error(name: str, text: str) -> None:
    try:
        resolved = resolve({name: text}, NONE, None)
    except UsageError:
        return
    assert resolved.origins[name].startswith("flag ")


@pytest.mark.parametrize(
    ("flag", "toml"),
    [
        ("0.0.0.0:1, [::]:2", None),
        (["0.0.0.0:1", "[::]:2,0.0.0.0:1"], None),
        (None, 'listen_addr = "0.0.0.0:1,[::]:2"'),
        (None, 'listen_addr = ["0.0.0.0:1", "[::]:2"]'),
    ],
)
def test_several_addresses_to_listen_on(tmp_path: Path, flag: str | list[str] | None, toml: str | None) -> None:
    path = None
    if toml is not None:
        path = tmp_path / "crabnet.toml"
        path.write_text(toml)
    settings = resolve({"listen_addr": flag}, NONE, path).settings
    assert settings.listen_addr == "0.0.0.0:1,[::]:2"
    assert settings.listen_addrs == ["0.0.0.0:1", "[::]:2"]


def test_the_name_of_an_environment_variable_follows_its_setting_and_a_former_one_stands_behind_it() -> None:
    assert {knob.env for knob in KNOBS if knob.env} == {f"CRABNET_{knob.name.upper()}" for knob in KNOBS if knob.env}
    both = {"CRABNET_PARKED_TTL_SECONDS": "9", "CRABNET_PARKED_TTL_S": "8"}
    resolved = resolve({}, both, None)
    assert (resolved.settings.parked_ttl_s, resolved.origins["parked_ttl_s"]) == (8, "environment CRABNET_PARKED_TTL_S")
