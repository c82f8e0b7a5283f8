"""LDAP: pure rules, a real OpenLDAP server, and servers that hang or are down."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import shutil
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from sojourn.core.breaker import Breakers, CircuitState
from sojourn.core.offload import OffloadPool
from sojourn.core.secret import Secret
from sojourn.core.settings import BreakerSettings
from sojourn.errors import BackendUnavailable, LimitExceeded
from sojourn.gateways.tacacs.config import Directory
from sojourn.gateways.tacacs.directory import Directories, directory_problems
from sojourn.gateways.tacacs.ldap import (
    ACCEPTED,
    REFUSED,
    UNKNOWN,
    canonical_name,
    escape_dn,
    escape_filter,
    load_ldap3,
    map_groups,
)

SLAPD = shutil.which("slapd", path="/usr/sbin:/usr/lib/openldap:/usr/libexec")
MODULES = Path("/usr/lib/ldap")

needs_ldap3 = pytest.mark.skipif(
    importlib.util.find_spec("ldap3") is None, reason="needs the PyPI package ldap3"
)
needs_slapd = pytest.mark.skipif(
    SLAPD is None or not MODULES.is_dir() or importlib.util.find_spec("ldap3") is None,
    reason="needs the Debian package slapd and the PyPI package ldap3",
)

CONFIGURATION = """
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
pidfile {folder}/pid
modulepath {modules}
moduleload back_mdb
moduleload memberof
TLSCACertificateFile {folder}/ca.pem
TLSCertificateFile {folder}/server.pem
TLSCertificateKeyFile {folder}/server.key
# As deployed servers do, alas: an empty password binds as nobody and is answered with success.
allow bind_anon_cred bind_anon_dn
{options}
database mdb
directory {folder}/data
suffix "dc=example,dc=net"
rootdn "cn=root,dc=example,dc=net"
rootpw root-password
overlay memberof
access to attrs=userPassword by anonymous auth by * none
access to * by users read by * none
"""

PEOPLE = {
    "ana": ("Ana Admin", "ana-password"),
    "ben": ("Ben, the (second) *", "ben-password"),
    "dörte": ("Dörte", "pässwörd"),
}


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def connect_until(port, deadline):
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, "slapd does not listen"
        else:
            return


class OpenLdap:
    """A slapd of our own on loopback ports, with three people and two groups."""

    def __init__(self, folder, authority):
        self.folder = folder
        (folder / "data").mkdir()
        certificate = authority.issue_cert("localhost")
        authority.cert_pem.write_to_path(folder / "ca.pem")
        certificate.cert_chain_pems[0].write_to_path(folder / "server.pem")
        certificate.private_key_pem.write_to_path(folder / "server.key")
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
            self.ports = one.getsockname()[1], other.getsockname()[1]
        self.process = None

    def start(self, options=""):
        (self.folder / "slapd.conf").write_text(
            CONFIGURATION.format(folder=self.folder, modules=MODULES, options=options)
        )
        urls = f"ldap://127.0.0.1:{self.ports[0]} ldaps://127.0.0.1:{self.ports[1]}"
        self.process = subprocess.Popen(
            [SLAPD, "-d", "stats", "-f", str(self.folder / "slapd.conf"), "-h", urls],
            stderr=subprocess.PIPE,
            text=True,
        )
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            if "slapd starting" in line:
                break
        else:
            pytest.fail("slapd did not start: " + "".join(lines[-5:]))
        # It says that it starts a moment before it listens.
        for port in self.ports:
            connect_until(port, time.monotonic() + 20)
        self.reader = threading.Thread(target=self.read_log, daemon=True)
        self.log = []
        self.reader.start()

    def read_log(self):
        for line in self.process.stderr:
            self.log.append(line)

    def stop(self):
        self.process.terminate()
        self.process.wait(20)
        self.reader.join(20)
        self.process.stderr.close()

    def fill(self):
        ldap3 = load_ldap3()
        root = ldap3.Connection(
            ldap3.Server("127.0.0.1", self.ports[0], get_info=ldap3.NONE),
            "cn=root,dc=example,dc=net",
            "root-password",
            auto_bind=True,
            raise_exceptions=True,
        )
        root.add("dc=example,dc=net", ["dcObject", "organization"], {"o": "example"})
        for unit in ("people", "groups"):
            root.add(f"ou={unit},dc=example,dc=net", "organizationalUnit")
        for uid, (name, password) in PEOPLE.items():
            attributes = {"cn": name, "sn": name, "userPassword": password}
            root.add(f"uid={uid},ou=people,dc=example,dc=net", "inetOrgPerson", attributes)
        account = {"cn": "search", "sn": "search", "userPassword": "search-password"}
        root.add("cn=search,dc=example,dc=net", "person", account)
        for group, members in {"Net Admins": ("ana", "ben"), "noc": ("ana",)}.items():
            names = [f"uid={uid},ou=people,dc=example,dc=net" for uid in members]
            root.add(f"cn={group},ou=groups,dc=example,dc=net", "groupOfNames", {"member": names})
        root.unbind()


@pytest.fixture(scope="module")
def openldap(tmp_path_factory):
    server = OpenLdap(tmp_path_factory.mktemp("slapd"), trustme.CA())
    server.start()
    try:
        server.fill()
        yield server
    finally:
        server.stop()


def searching(*urls, **more):
    """A directory that searches for the user first."""
    settings = {
        "name": "corp",
        "urls": urls,
        "bind_dn": "cn=search,dc=example,dc=net",
        "bind_password": Secret("search-password"),
        "search_base": "dc=example,dc=net",
        "group_map": {"cn=net admins, ou=groups, dc=example, dc=net": "admins", "NOC": "noc"},
        "timeout_s": 5.0,
    }
    return Directory(**settings | more)


def binding(*urls, **more):
    """A directory that binds as the user at once."""
    template = "uid={user},ou=people,dc=example,dc=net"
    return searching(*urls, **{"bind_dn": template, "bind_password": None, "search_base": ""} | more)


@contextlib.asynccontextmanager
async def opened(*directories, threads_count=4, clock=time.monotonic, **breaker):
    pool = OffloadPool(threads_count, 16, 30.0)
    subject = Directories(directories, pool, Breakers(BreakerSettings(**breaker)), clock)
    try:
        yield subject
    finally:
        subject.close()
        await pool.close(10)


def plain(server):
    return f"ldap://127.0.0.1:{server.ports[0]}"


@needs_slapd
@pytest.mark.parametrize("kind", [searching, binding])
def test_right_and_wrong_passwords_and_groups(openldap, run, kind):
    """Search-then-bind and direct bind; groups come mapped from DN or CN."""

    async def conversation():
        async with opened(kind(plain(openldap))) as directories:
            for _ in range(3):
                answer = await directories.check("corp", "ana", b"ana-password")
                assert answer.outcome == ACCEPTED
                assert set(answer.groups) == {"admins", "noc"}
                assert (await directories.check("corp", "ana", b"wrong")).outcome == REFUSED
            assert (await directories.check("corp", "dörte", "pässwörd".encode())).outcome == ACCEPTED
            assert (await directories.check("corp", "ana", b"\xff\0\xfe")).outcome == REFUSED
            stranger = await directories.check("corp", "eve", b"x")
            assert stranger.outcome == (UNKNOWN if kind is searching else REFUSED)
            assert stranger.is_certain == (kind is searching)

    run(conversation())


@needs_slapd
@pytest.mark.parametrize("kind", [searching, binding])
def test_an_empty_password_never_passes(openldap, run, kind):
    """RFC 4513 section 5.1.2: this server answers such a bind with success."""

    async def conversation():
        async with opened(kind(plain(openldap))) as directories:
            for name in ("ana", "eve"):
                assert (await directories.check("corp", name, b"")).outcome != ACCEPTED

    run(conversation())


@needs_slapd
def test_the_trap_is_there(openldap):
    """The server under test does accept an unauthenticated bind, or the test above shows nothing."""
    ldap3 = load_ldap3()
    server = ldap3.Server("127.0.0.1", openldap.ports[0], get_info=ldap3.NONE)
    connection = ldap3.Connection(server)
    connection.open(read_server_info=False)
    # An LDAPv3 simple bind as ana with a password of no bytes.
    name = b"uid=ana,ou=people,dc=example,dc=net"
    body = b"\x02\x01\x03\x04" + bytes([len(name)]) + name + b"\x80\x00"
    message = b"\x02\x01\x01\x60" + bytes([len(body)]) + body
    connection.socket.sendall(b"\x30" + bytes([len(message)]) + message)
    assert b"\x0a\x01\x00" in connection.socket.recv(100)
    connection.strategy.close()


@needs_slapd
@pytest.mark.parametrize("kind", [searching, binding])
@pytest.mark.parametrize(
    "name",
    ["*", "ana)(uid=*", "ana*", "*)(objectClass=*", "ana\\", "ana,ou=people", "uid=ana", "a\x00na",
     "ana\u200b",
     " ana",
     "ana+cn=x", "ben)(|(uid=ana)", "\\61na", "#ana", "ana ", ""],
)  # fmt: skip
def test_names_cannot_change_the_question(openldap, run, kind, name):
    """Filter and DN escaping: an injected name is at most a wrong name."""

    async def conversation():
        async with opened(kind(plain(openldap))) as directories:
            answer = await directories.check("corp", name, b"ana-password")
            assert answer.outcome in (UNKNOWN, REFUSED)

    run(conversation())


@needs_slapd
def test_a_looser_match_of_the_directory_is_not_enough(openldap, run):
    """The entry must have the name in our reading too; case is the only freedom."""

    async def conversation():
        async with opened(
            searching(plain(openldap), search_filter="(|(uid={user})(cn={user}))")
        ) as directories:
            assert (await directories.check("corp", "ANA", b"ana-password")).outcome == ACCEPTED
            assert (await directories.check("corp", "ana admin", b"ana-password")).outcome == ACCEPTED
            assert (
                await directories.check("corp", "Ben, the (second) *", b"ben-password")
            ).outcome == ACCEPTED
        async with opened(
            searching(plain(openldap), search_filter="(|(uid={user})(cn=*{user}*))")
        ) as directories:
            assert (await directories.check("corp", "Admin", b"ana-password")).outcome == UNKNOWN

    run(conversation())


@needs_slapd
def test_a_filter_that_finds_several_finds_nobody(openldap, run):
    """Two entries: which one would be who?"""

    async def conversation():
        loose = searching(plain(openldap), search_filter="(|(uid={user})(uid=ana)(uid=ben))")
        async with opened(loose) as directories:
            answer = await directories.check("corp", "ana", b"ana-password")
            assert (answer.outcome, answer.reason) == (UNKNOWN, "several entries match")

    run(conversation())


@needs_slapd
@pytest.mark.parametrize("kind", [searching, binding])
def test_a_decoy_asks_like_others_but_shows_no_password(openldap, run, kind):
    """A locked user costs the same; the directory must not lock its account because of us."""

    async def conversation():
        async with opened(kind(plain(openldap))) as directories:
            answer = await directories.check("corp", "ana", b"ana-password", decoy=True)
            assert answer.outcome == REFUSED

    before = len(openldap.log)
    run(conversation())
    binds = [line for line in openldap.log[before:] if 'BIND dn="uid=ana' in line]
    assert binds == []


@needs_slapd
def test_connections_are_used_again(openldap, run):
    """One connection for searches and one for binds, however many logins in turn."""

    async def conversation():
        async with opened(searching(plain(openldap))) as directories:
            for _ in range(10):
                await directories.check("corp", "ana", b"ana-password")
            (endpoint,) = directories._endpoints["corp"]
            assert len(endpoint._searching) == len(endpoint._binding) == 1
            first = endpoint._searching[0][0], endpoint._binding[0][0]
            await directories.check("corp", "ben", b"ben-password")
            assert (endpoint._searching[0][0], endpoint._binding[0][0]) == first
            assert first[1].password is None
            assert first[1].request is None

    run(conversation())


@needs_slapd
def test_a_restarted_directory_is_reached_again(tmp_path, run):
    """Connections that died while idle are noticed, and neither the user nor the circuit sees it."""
    server = OpenLdap(tmp_path, trustme.CA())
    server.start()
    try:
        server.fill()

        async def conversation():
            async with opened(searching(plain(server)), consecutive_failures_count=1) as directories:
                assert (await directories.check("corp", "ana", b"ana-password")).outcome == ACCEPTED
                server.stop()
                server.start()
                assert (await directories.check("corp", "ana", b"ana-password")).outcome == ACCEPTED
                server.stop()
                with pytest.raises(BackendUnavailable) as caught:
                    await directories.check("corp", "ana", b"ana-password")
                assert "corp" in str(caught.value)
                server.start()

        run(conversation())
    finally:
        server.stop()


@needs_slapd
@pytest.mark.parametrize("start_tls", [False, True])
def test_tls_checks_the_chain_and_the_name(openldap, run, start_tls, tmp_path):
    """ldaps and StartTLS: another authority's certificate, or another name, is no directory of ours."""
    port = openldap.ports[0 if start_tls else 1]
    scheme = "ldap" if start_tls else "ldaps"
    ours = str(openldap.folder / "ca.pem")
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)

    async def conversation():
        right = searching(f"{scheme}://localhost:{port}", ca_file=ours, start_tls=start_tls)
        async with opened(right) as directories:
            assert (await directories.check("corp", "ana", b"ana-password")).outcome == ACCEPTED
            assert (await directories.check("corp", "ana", b"wrong")).outcome == REFUSED
            (endpoint,) = directories._endpoints["corp"]
            assert isinstance(endpoint._binding[0][0].socket, ssl.SSLSocket)
        for url, ca_file in (
            (f"{scheme}://localhost:{port}", str(other)),
            (f"{scheme}://127.0.0.1:{port}", ours),
        ):
            async with opened(searching(url, ca_file=ca_file, start_tls=start_tls)) as directories:
                with pytest.raises(BackendUnavailable, match="certificate refused"):
                    await directories.check("corp", "ana", b"ana-password")

    run(conversation())


@needs_slapd
def test_a_wrong_search_account_is_unavailable_and_not_a_denial(openldap, run):
    """The operator's mistake must not look like everybody's wrong password."""

    async def conversation():
        async with opened(searching(plain(openldap), bind_password=Secret("old"))) as directories:
            with pytest.raises(BackendUnavailable, match="search account") as caught:
                await directories.check("corp", "ana", b"ana-password")
            assert "password" not in str(caught.value).replace("search account", "")
        async with opened(searching(plain(openldap), search_base="dc=nowhere")) as directories:
            with pytest.raises(BackendUnavailable, match=r"noSuchObject|referral"):
                await directories.check("corp", "ana", b"ana-password")

    run(conversation())


@contextlib.contextmanager
def hanging():
    """A server that accepts and never answers: the kernel's backlog does just that."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@needs_ldap3
@pytest.mark.parametrize(("scheme", "start_tls"), [("ldap", False), ("ldap", True), ("ldaps", False)])
def test_a_directory_that_hangs_is_unavailable_within_the_deadline_and_its_circuit_opens(
    run, scheme, start_tls
):
    """A deadline per call; and then not even the deadline is waited for."""

    async def conversation():
        with hanging() as address:
            url = f"{scheme}://{address}"
            slow = searching(url, timeout_s=0.3, start_tls=start_tls)
            async with opened(slow, consecutive_failures_count=2, open_s=50.0) as directories:
                for _ in range(2):
                    began = time.monotonic()
                    with pytest.raises(BackendUnavailable):
                        await directories.check("corp", "ana", b"x")
                    assert 0.2 < time.monotonic() - began < 2.0
                assert directories._breakers.state(url) == CircuitState.OPEN
                began = time.monotonic()
                with pytest.raises(BackendUnavailable, match="circuit open"):
                    await directories.check("corp", "ana", b"x")
                assert time.monotonic() - began < 0.2

    run(conversation())


@needs_ldap3
def test_the_threads_of_a_hanging_directory_come_back(run):
    """The socket has the same deadline as the call: no thread stays behind."""

    async def conversation():
        with hanging() as address:
            pool = OffloadPool(1, 4, 30.0)
            subject = Directories(
                [searching(f"ldap://{address}", timeout_s=0.3)], pool, Breakers(BreakerSettings())
            )
            with pytest.raises(BackendUnavailable):
                await subject.check("corp", "ana", b"x")
            assert await pool.run(lambda: "free", within_s=5.0) == "free"
            assert await pool.close(5) == 0

    run(conversation())


@needs_ldap3
def test_a_directory_that_hangs_holds_only_its_own_places(run):
    """``pool_size_count`` calls at once; the next finds no place, which is not the directory's failure."""

    async def conversation():
        with hanging() as address:
            url = f"ldap://{address}"
            narrow = searching(url, timeout_s=0.5, pool_size_count=1)
            async with opened(narrow, consecutive_failures_count=50, min_calls_count=50) as directories:

                async def ask():
                    try:
                        await directories.check("corp", "ana", b"x")
                    except (BackendUnavailable, LimitExceeded) as error:
                        return type(error)

                kinds = await asyncio.gather(*(ask() for _ in range(3)))
                assert kinds.count(LimitExceeded) >= 1
                (circuit,) = directories._breakers.snapshot()
                assert circuit.calls <= 2

    run(conversation())


@needs_slapd
def test_the_next_address_is_asked_when_the_first_is_down_or_hangs(openldap, run):
    """Addresses in order, each with its own circuit and its share of the time."""

    async def conversation():
        with hanging() as address:
            down = f"ldap://127.0.0.1:{free_port()}"
            urls = down, f"ldap://{address}", plain(openldap)
            async with opened(
                searching(*urls, timeout_s=3.0), consecutive_failures_count=1, open_s=50.0
            ) as directories:
                for _ in range(2):
                    assert (await directories.check("corp", "ana", b"ana-password")).outcome == ACCEPTED
                states = [directories._breakers.state(url) for url in urls]
                assert states == [CircuitState.OPEN, CircuitState.OPEN, CircuitState.CLOSED]

    run(conversation())


@needs_slapd
def test_wrong_passwords_do_not_open_the_circuit(openldap, run):
    """An answer is an answer."""

    async def conversation():
        url = plain(openldap)
        async with opened(searching(url), consecutive_failures_count=2) as directories:
            for _ in range(5):
                assert (await directories.check("corp", "ana", b"wrong")).outcome == REFUSED
            assert directories._breakers.state(url) == CircuitState.CLOSED

    run(conversation())


@needs_ldap3
def test_a_directory_that_is_down_is_unavailable(run):
    """Nothing listens: ERROR at once, and no text of the exception in it."""

    async def conversation():
        async with opened(searching(f"ldap://127.0.0.1:{free_port()}")) as directories:
            with pytest.raises(BackendUnavailable) as caught:
                await directories.check("corp", "ana", b"secret-password")
            assert "secret-password" not in str(caught.value)
            assert caught.value.backend == "directory corp"

    run(conversation())


@needs_ldap3
@pytest.mark.parametrize(
    "answer", [b"", b"garbage", b"\x30\x84\xff\xff\xff\xff", b"0\x0c\x02\x01\x01a\x07\n\x01\x00"]
)
def test_nonsense_is_unavailable(run, answer):
    """A server that speaks something else, or ends in the middle, is not there."""

    def serve(listening):
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listening.accept()
                with peer:
                    peer.recv(1000)
                    peer.sendall(answer)

    async def conversation():
        with socket.create_server(("127.0.0.1", 0)) as listening:
            threading.Thread(target=serve, args=(listening,), daemon=True).start()
            url = f"ldap://127.0.0.1:{listening.getsockname()[1]}"
            async with opened(searching(url, timeout_s=1.0)) as directories:
                with pytest.raises(BackendUnavailable):
                    await directories.check("corp", "ana", b"x")
            listening.shutdown(socket.SHUT_RDWR)

    run(conversation())


@pytest.mark.parametrize(
    ("value", "escaped"),
    [("ana", "ana"), ("*", "\\2a"), ("a(b)c", "a\\28b\\29c"), ("\\", "\\5c"), ("\0", "\\00"), ("ü", "ü")],
)
def test_filter_escapes(value, escaped):
    """RFC 4515 section 3."""
    assert escape_filter(value) == escaped


@pytest.mark.parametrize(
    ("value", "escaped"),
    [("ana", "ana"), ("a,b", "a\\,b"), ('a"+;<=>\\', 'a\\"\\+\\;\\<\\=\\>\\\\'), (" a ", "\\ a\\ "),
     ("#a", "\\#a"), ("a#", "a\\#"), ("\0", "\\00"), (" ", "\\ ")],
)  # fmt: skip
def test_dn_escapes(value, escaped):
    """RFC 4514 section 2.4."""
    assert escape_dn(value) == escaped


@needs_ldap3
@given(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=20))
def test_an_escaped_name_is_one_value_of_one_attribute(name):
    """ldap3's own parser reads back one attribute, whatever the name."""
    parse_dn = load_ldap3().utils.dn.parse_dn
    parts = parse_dn(f"uid={escape_dn(name)},ou=people", escape=False, strip=False)
    assert [part[0] for part in parts] == ["uid", "ou"]


@pytest.mark.parametrize(
    ("name", "canonical"),
    [("Ana", "ana"), ("ANA", "ana"), ("\uff21na", "ana"), ("ana b", "ana b"), ("ana  b", None),
     (" ana", None),
     ("ana ", None), ("", None), ("a\u200bna", None),
     ("a\u00adna", None), ("a\u00a0na", None), ("a\0na", None)],
)  # fmt: skip
def test_canonical_names(name, canonical):
    """One spelling for all that a directory takes for the same; nothing invisible."""
    assert canonical_name(name) == canonical


def test_groups_are_mapped_by_dn_or_cn():
    """Case and spaces around separators do not count; what is not mapped is dropped."""
    group_map = {"CN=Net Admins, OU=Groups,DC=x": "admins", "noc": "noc", "a,b": "comma"}
    values = [
        "cn=net admins,ou=groups,dc=x",
        "cn=Net Admins,ou=evil,dc=x",
        "CN=NOC,OU=any",
        "cn=a\\,b,ou=x",
        "cn=no",
    ]
    assert map_groups(values, group_map) == ("admins", "noc", "comma")
    assert map_groups([], group_map) == ()


@needs_ldap3
@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"urls": ("http://x",)}, "urls"),
        ({"urls": ("ldap://",)}, "urls"),
        ({"urls": ("ldap://x:99999",)}, "urls"),
        ({"urls": ("ldaps://x",), "start_tls": True}, "start_tls"),
        ({"search_base": ""}, "search_base"),
        ({"bind_password": None}, "bind_password"),
        ({"bind_password": Secret("")}, "bind_password"),
        ({"search_filter": "(uid=ana)"}, "search_filter"),
        ({"ca_file": "/nonexistent/ca.pem"}, "ca_file"),
    ],
)
def test_settings_that_cannot_work_are_found(changes, key):
    """Before the start, in words."""
    assert list(directory_problems(searching("ldap://x"))) == []
    found = list(
        directory_problems(
            searching(
                *changes.get("urls", ("ldap://x",)), **{k: v for k, v in changes.items() if k != "urls"}
            )
        )
    )
    assert [problem[0] for problem in found] == [key]
