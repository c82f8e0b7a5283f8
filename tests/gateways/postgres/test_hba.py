"""Rules for clients, in PostgreSQL's form: which one decides, and which lines are refused."""

from __future__ import annotations

import pytest

from sojourn.errors import ConfigError
from sojourn.gateways.postgres.hba import HbaRules
from sojourn.gateways.postgres.ident import IdentMaps

EVERYBODY = {"is_tls": False, "is_unix": False, "address": "192.0.2.7", "database": "shop", "user": "ana"}


def find(text, **more):
    """Return the line of the rule that decides, or 0."""
    rule = HbaRules.parse(text, "hba.conf").find(**(EVERYBODY | more))
    return rule.line if rule else 0


def problems_of(text, parse=HbaRules.parse):
    with pytest.raises(ConfigError) as caught:
        parse(text, "hba.conf")
    return caught.value.problems


def test_the_first_rule_that_fits_decides():
    """PostgreSQL, pg_hba.conf: no fall-through, and no rule means no."""
    text = "# ours\nhost shop ana 192.0.2.0/24 md5\nhost all all all reject\n"
    assert find(text) == 2
    assert find(text, user="bob") == 3
    assert find(text, is_unix=True) == 0
    assert HbaRules.parse("", "hba.conf").find(**EVERYBODY) is None


@pytest.mark.parametrize(
    ("kind", "fitting"),
    [
        ("local", {"unix"}),
        ("host", {"tls", "plain"}),
        ("hostssl", {"tls"}),
        ("hostnossl", {"plain"}),
        ("hostnogssenc", {"tls", "plain"}),
    ],
)
def test_a_type_says_which_connections_a_rule_is_for(kind, fitting):
    """PostgreSQL, pg_hba.conf: local, host, hostssl, hostnossl."""
    text = f"{kind} all all {'' if kind == 'local' else 'all'} trust"
    found = {
        "unix": find(text, is_unix=True, address="unix"),
        "tls": find(text, is_tls=True),
        "plain": find(text),
    }
    assert {name for name, line in found.items() if line} == fitting


def test_databases_are_names_lists_keywords_and_expressions():
    """In quotes a keyword is a name; only ``replication`` covers physical replication."""
    assert find("host shop,stock all all trust", database="stock")
    assert find("host shop, stock all all trust", database="stock")
    assert not find("host shop,stock all all trust", database="sto")
    assert find("host sameuser all all trust", database="ana")
    assert not find("host sameuser all all trust")
    assert find('host "all" all all trust', database="all")
    assert not find('host "all" all all trust')
    assert find('host "a ""b"", c" all all trust', database='a "b", c')
    assert find(r'host x,"/^s(hop|tock){1,2}$" all all trust')
    assert not find("host /^hop all all trust")
    assert find("host replication all all trust", is_replication=True)
    assert not find("host all,sameuser all all trust", is_replication=True, database="ana")
    assert not find("host replication all all trust", database="replication")


def test_users_are_names_lists_and_expressions():
    """``sameuser`` means nothing for users; a role's members are the server's matter."""
    assert find("host all bob,ana all trust")
    assert not find("host all sameuser all trust")
    assert find("host all /^a all trust")
    assert find('host all "+ana" all trust', user="+ana")


@pytest.mark.parametrize(
    ("where", "address", "fits"),
    [
        ("192.0.2.0/24", "192.0.2.255", True),
        ("192.0.2.0/24", "192.0.3.0", False),
        ("192.0.2.77/24", "192.0.2.1", True),
        ("192.0.2.0 255.255.255.0", "192.0.2.9", True),
        ("192.0.2.0 255.255.255.0", "192.0.1.9", False),
        ("0.0.0.0/0", "::1", False),
        ("::/0", "2001:db8::1", True),
        ("2001:db8::/32", "2001:db9::1", False),
        ("fe80::1/128", "fe80::1%eth0", True),
        ("2001:db8:: ffff:ffff::", "2001:db8:1::1", True),
        ("192.0.2.0/24", "::ffff:192.0.2.4", True),
        ("::/0", "::ffff:192.0.2.4", False),
        ("all", "::1", True),
        ("0.0.0.0/0", "not an address", False),
    ],
)
def test_addresses_fit_by_prefix_or_mask(where, address, fits):
    """PostgreSQL, pg_hba.conf: IPv4 rules are for IPv4 clients, IPv6 rules for the others."""
    assert bool(find(f"host all all {where} trust", address=address)) is fits


def test_lines_go_on_behind_a_backslash_and_end_at_a_hash():
    """PostgreSQL 14, pg_hba.conf; a problem names the line where the rule begins."""
    assert find("\ufeff# a\nhost all \\\r\n  all all \\\n trust # why\r\nhost all all all reject\n") == 2
    assert find('host "a#b" all all trust', database="a#b")
    assert problems_of("\nhost all \\\nall all nothing")[0].line == 2


@pytest.mark.parametrize(
    ("line", "key", "word"),
    [
        ("hosts all all all trust", "type", "hosts"),
        ("hostgssenc all all all trust", "type", "hostgssenc"),
        ("include other.conf", "type", "include"),
        ("host", "database", "end of the line"),
        ("host all", "user", "end of the line"),
        ("host all all", "address", "end of the line"),
        ("host all all all", "method", "end of the line"),
        ("local all all", "method", "end of the line"),
        ("host @names all all trust", "database", "@names"),
        ("host samerole all all trust", "database", "samerole"),
        ("host all +staff all trust", "user", "role membership"),
        ("host all /( all trust", "user", "/("),
        ("host all all example.org trust", "address", "host names"),
        ("host all all samenet trust", "address", "samenet"),
        ("host all all 192.0.2.1 trust", "address", "192.0.2.1/32"),
        ("host all all 192.0.2.0/33 trust", "address", "from 0 to 32"),
        ("host all all 192.0.2.0/-1 trust", "address", "from 0 to 32"),
        ("host all all 192.0.2.0 255.0.255.0 trust", "address", "ones and then zeros"),
        ("host all all 192.0.2.0 0.0.0.255 trust", "address", "ones and then zeros"),
        ("host all all 192.0.2.0 ::1 trust", "address", "family"),
        ("local all all peer", "method", "peer"),
        ("host all all all ldap", "method", "ldap"),
        ("host all all all cert", "method", "hostssl"),
        ("hostssl all all all cert clientcert=verify-full", "options", "clientcert"),
        ("hostssl all all all md5 map=staff", "options", "cert only"),
        ("host a ,b all all trust", "", "comma"),
        ("host a, ", "", "comma"),
        ('host "a all all trust', "", "double quote"),
        ('host "a""b"c all all trust', "", "touches"),
        ("host all all all,all trust", "address", "list"),
    ],
)
def test_what_a_rule_cannot_mean_here_is_a_problem_with_its_line(line, key, word):
    """A condition that is left out would let in whom it keeps out."""
    (problem,) = problems_of(f"host all all all trust\n{line}\n")
    assert (problem.line, problem.key) == (2, key)
    assert word in str(problem)


def test_every_problem_of_a_file_is_reported_at_once():
    """STYLE.md: ConfigError holds every problem that was found."""
    text = "x\nhost all all all trust\nhost all all nowhere trust\nlocal all all ident\n"
    assert [problem.line for problem in problems_of(text)] == [1, 3, 4]
    assert str(problems_of(text)[0]).startswith("hba.conf:1: hba.type: found 'x'")


def test_a_map_says_which_users_a_certificate_may_be():
    """PostgreSQL, User Name Maps: exact names, all, and expressions with one group."""
    (rule,) = HbaRules.parse("hostssl all all all cert map=staff", "hba.conf").rules
    maps = IdentMaps.parse(
        'staff ana.example ana # her\nstaff /^(.*)\\.corp$ \\1\nroot boss all\nodd x "all"\n', "ident.conf"
    )
    assert maps.allows(rule.map_name, "ana.example", "ana")
    assert not maps.allows("staff", "ana.example", "bob")
    assert maps.allows("staff", "bob.corp", "bob")
    assert not maps.allows("staff", "bob.corp", "ana")
    assert maps.allows("root", "boss", "anybody")
    assert maps.allows("odd", "x", "all")
    assert not maps.allows("odd", "x", "bob")
    assert not maps.allows("nobody", "boss", "boss")


def test_every_problem_of_a_map_is_reported_with_its_line():
    """As of rules."""
    found = problems_of("a b\na /( c\na b +c\na,b c d\na b c\n", IdentMaps.parse)
    assert [(problem.line, problem.key) for problem in found] == [(1, ""), (2, "name"), (3, "user"), (4, "")]
