"""REST for panels: what is told, what may be ordered and how that ends."""

from __future__ import annotations

import asyncio
import csv
import io
import json

import pytest
from itv2_api_lab import BASE, CODE, HOUSE_ID, api, bearer, http_settings, word
from itv2_hub_lab import ARMED_AWAY

from sojourn.gateways.itv2 import messages as m
from sojourn.gateways.itv2.answers import Rejected, UnknownOutcome
from sojourn.gateways.itv2.commands import UNSUPPORTED

PARTITION = "/panels/house/partitions/1"


def test_a_value_comes_with_its_age_and_its_source(run, tmp_path):
    """Issue: every value has since, source and stale; device classes are the operator's, else the definition's."""

    async def go():
        async with api(tmp_path) as lab:
            await lab.connect()
            status, panel = await lab.ask("GET", "/panels/house", "reader")
            assert status == 200
            assert (panel["integration_id"], panel["phase"], panel["is_stale"]) == (
                HOUSE_ID,
                "connected",
                False,
            )
            zone = panel["zones"][0]
            assert zone["label"]["value"] == "Front Door"
            assert set(zone["open"]) == {"value", "since_ms", "source", "is_stale"}
            assert (zone["open"]["value"], zone["open"]["source"], zone["open"]["is_stale"]) == (
                False,
                "pull",
                False,
            )
            assert [one["device_class"] for one in panel["zones"][:3]] == ["opening", "opening", "motion"]
            assert panel["partitions"][0]["mode"]["value"] == "disarm"
            assert panel["firmware"]["value"] == "5.43"
            lab.panel.lost("the line is cut")
            _, panel = await lab.ask("GET", "/panels/house", "reader")
            assert (panel["is_connected"], panel["is_stale"]) == (False, True)
            assert panel["zones"][0]["open"]["is_stale"]

    run(go())


def test_lists_and_single_things_say_the_same(run, tmp_path):
    """One table of shapes: what a list has is what its parts have, and what there is not is not found."""

    async def go():
        async with api(tmp_path) as lab:
            await lab.connect()
            _, panels = await lab.ask("GET", "/panels", "reader")
            assert [one["name"] for one in panels["panels"]] == ["house", "shed"]
            assert panels["panels"][0]["zones_count"] == 3
            _, zones = await lab.ask("GET", "/panels/house/zones", "reader")
            _, zone = await lab.ask("GET", "/panels/house/zones/2", "reader")
            assert zones["zones"][1] == zone
            _, partitions = await lab.ask("GET", "/panels/house/partitions", "reader")
            _, partition = await lab.ask("GET", PARTITION, "reader")
            assert partitions["partitions"] == [partition]
            for path in (
                "/panels/barn",
                "/panels/house/zones/99",
                "/panels/house/partitions/8",
                "/panels/house/zones/x",
            ):
                status, problem = await lab.ask("GET", path, "reader")
                assert (status, problem["type"].rpartition(":")[2]) == (404, "not_found")

    run(go())


def test_who_armed_is_told_in_words(run, tmp_path):
    """itv2-users-and-history.md section 5: "changed by" user."""

    async def go():
        async with api(tmp_path) as lab:
            (await lab.connect()).partitions[1] = ARMED_AWAY
            lab.panel.take(m.Arming(partition=1, mode=2, method=1, user=2), "live", lab.gateway.wall_ms())
            _, partition = await lab.ask("GET", PARTITION, "reader")
            assert partition["mode"]["value"] == "away"
            assert partition["changed_by"]["value"] == {"user": 2, "label": "Anna", "method": "access code"}

    run(go())


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/arm", {"mode": "away"}, m.Arm),
        ("/arm", {"mode": "night", "code": CODE}, m.Arm),
        ("/disarm", {"code": CODE}, m.Disarm),
        ("/disarm", None, m.Disarm),
        ("/bypass", {"zones": [2], "code": CODE}, m.BypassZone),
        ("/bypass-and-arm", {"mode": "stay", "zones": [1], "code": CODE}, m.Arm),
    ],
)
def test_a_command_that_the_panel_agrees_to_is_accepted(run, tmp_path, path, body, kind):
    """Issue: commands with request ids and outcomes; a body with defaults only may be left out."""

    async def go():
        async with api(tmp_path) as lab:
            session = await lab.connect()
            if "mode" not in (body or {}):
                session.partitions[1] = bytes((m.PartitionFlag.READY, 0))

            def programming(command):
                if isinstance(command, m.EnterConfiguration):
                    lead = m.ProgrammingLead(
                        partition=1,
                        phase=0,
                        user=0,
                        access=0,
                        mode=command.mode,
                        time=m.PanelTime(2026, 1, 1, 0, 0, 0),
                    )
                    lab.panel.take(lead, "live", lab.gateway.wall_ms())

            session.on_command = programming
            status, outcome = await lab.ask("POST", PARTITION + path, "ana", json=body)
            assert (status, outcome["result"], outcome["panel"]) == (200, "accepted", "house"), outcome
            assert outcome["request_id"]
            assert session.of(kind)

    run(go())


def test_each_end_of_a_command_has_its_status(run, tmp_path):
    """accepted 200, rejected 409 with the panel's reason in words, unsupported 501, unknown 504."""

    async def go():
        async with api(tmp_path) as lab:
            session = await lab.connect()
            session.refuse[m.Word.ARM] = [Rejected(4), UnknownOutcome("no answer within 30 s")]
            status, outcome = await lab.ask("POST", PARTITION + "/arm", "ana", json={"mode": "away"})
            assert (status, outcome["result"], outcome["panel_code"]) == (409, "rejected", 4)
            assert outcome["reason"].startswith("not ready")
            status, outcome = await lab.ask("POST", PARTITION + "/arm", "ana", json={"mode": "away"})
            assert (status, outcome["result"]) == (504, "unknown")
            status, outcome = await lab.ask(
                "POST", "/panels/house/unsupported", "reader", json={"what": "panic"}
            )
            assert (status, outcome["result"]) == (501, "unsupported")
            status, outcome = await lab.ask(
                "POST", "/panels/shed/partitions/1/disarm", "root", json={"code": CODE}
            )
            assert (status, outcome["result"]) == (409, "rejected")

    run(go())


def test_the_same_key_is_carried_out_once(run, tmp_path):
    """Issue: idempotent requests; another request under a used key is the client's mistake."""

    async def go():
        async with api(tmp_path) as lab:
            session = await lab.connect()
            key = {"Idempotency-Key": '"door-42"'}
            first = await lab.ask("POST", PARTITION + "/arm", "ana", json={"mode": "away"}, headers=key)
            again = await lab.ask(
                "POST",
                PARTITION + "/arm",
                "ana",
                data='{ "mode":"away" }',
                headers={**key, "Content-Type": "application/json"},
            )
            assert first == again
            assert first[1]["request_id"] == "door-42"
            assert len(session.of(m.Arm)) == 1
            status, problem = await lab.ask("POST", PARTITION + "/disarm", "ana", headers=key)
            assert (status, problem["type"].rpartition(":")[2]) == (422, "idempotency_key_reused")
            status, _ = await lab.ask("POST", PARTITION + "/arm", "guard", json={"mode": "away"}, headers=key)
            assert status == 200
            assert len(session.of(m.Arm)) == 2

    run(go())


def test_a_client_that_goes_away_leaves_no_command_half_done(run, tmp_path):
    """The panel is asked once and the outcome is in the audit, whoever waits."""

    async def go():
        async with api(tmp_path) as lab:
            session = await lab.connect()
            session.gate = asyncio.Event()
            key = {"Idempotency-Key": "gone-1"}
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await lab.ask("POST", PARTITION + "/arm", "ana", json={"mode": "away"}, headers=key)
            session.gate.set()
            status, outcome = await lab.ask(
                "POST", PARTITION + "/arm", "ana", json={"mode": "away"}, headers=key
            )
            assert (status, outcome["result"]) == (200, "accepted")
            assert len(session.of(m.Arm)) == 1

    run(go())


def test_a_command_without_its_scope_is_refused_and_told(run, tmp_path):
    """Scopes read, arm, disarm, bypass, admin; what is refused is audited with the token's name."""

    async def go():
        async with api(tmp_path) as lab:
            session = await lab.connect()
            asked = len(session.asked)
            refused = [
                ("reader", "arm", {"mode": "away"}),
                ("guard", "disarm", {}),
                ("guard", "bypass", {"zones": [1]}),
                ("guard", "bypass-and-arm", {"mode": "away"}),
            ]
            for who, what, body in refused:
                status, problem = await lab.ask("POST", f"{PARTITION}/{what}", who, json=body)
                assert (status, problem["type"].rpartition(":")[2]) == (403, "forbidden")
            for path, body in (("raw", {"word": "0902"}), ("read-users", {}), ("read-sections", {})):
                status, _ = await lab.ask("POST", f"/panels/house/{path}", "ana", json=body)
                assert status == 403
            assert len(session.asked) == asked
            told = lab.events("itv2.api_command_refused")
            assert [(one["token"], one["command"]) for one in told[:2]] == [
                ("reader", "arm"),
                ("guard", "disarm"),
            ]

    run(go())


def test_a_token_of_some_panels_knows_no_other(run, tmp_path):
    """Per-panel tokens: other panels are not there, neither in lists nor in the history nor for the doctor."""

    async def go():
        async with api(tmp_path) as lab:
            await lab.connect()
            _, panels = await lab.ask("GET", "/panels", "shed")
            assert [one["name"] for one in panels["panels"]] == ["shed"]
            for method, path in (
                ("GET", "/panels/house"),
                ("POST", "/panels/house/refresh"),
                ("GET", "/history?panels=house"),
            ):
                assert (await lab.ask(method, path, "shed"))[0] == 404
            await lab.gateway.history.flush()
            assert (await lab.ask("GET", "/history", "shed"))[1]["entries"] == []
            assert (await lab.ask("GET", "/history", "root"))[1]["entries"]
            assert (await lab.ask("GET", "/doctor", "shed"))[0] == 403

    run(go())


def test_a_token_may_be_made_to_bring_codes(run, tmp_path):
    """needs_code: the codes of the configuration are not used for it."""

    async def go():
        async with api(tmp_path) as lab:
            await lab.connect()
            status, problem = await lab.ask("POST", PARTITION + "/disarm", "careful")
            assert (status, problem["errors"][0]["field"]) == (422, "$.code")
            status, _ = await lab.ask("POST", PARTITION + "/disarm", "careful", json={"code": CODE})
            assert status == 200

    run(go())


def test_wrong_codes_are_not_sent_for_ever(run, tmp_path):
    """PIN attempts are locked out before the panel locks its keypads."""

    async def go():
        async with api(tmp_path) as lab:
            session = await lab.connect()
            for _ in range(5):
                status, outcome = await lab.ask("POST", PARTITION + "/disarm", "ana", json={"code": "9999"})
                assert (status, outcome["result"]) == (409, "rejected")
            assert len(session.of(m.Disarm)) == 3
            assert "9999" not in json.dumps(lab.told)

    run(go())


def test_users_and_sections_are_for_administrators(run, tmp_path):
    """Reads bring rows without codes; writing needs the panel's switch."""

    async def go():
        async with api(tmp_path) as lab:
            session = await lab.connect()

            def programming(command):
                if isinstance(command, m.EnterConfiguration):
                    time = m.PanelTime(2026, 1, 1, 0, 0, 0)
                    lead = m.ProgrammingLead(
                        partition=1, phase=0, user=0, access=0, mode=command.mode, time=time
                    )
                    lab.panel.take(lead, "live", lab.gateway.wall_ms())

            session.on_command = programming
            status, outcome = await lab.ask("POST", "/panels/house/read-users", json={"count": 2})
            assert status == 200, outcome
            assert [(one["number"], one["label"]) for one in outcome["users"]] == [(1, "Master"), (2, "Anna")]
            assert "5678" not in json.dumps(outcome)
            status, outcome = await lab.ask("PUT", "/panels/house/users/2", json={"label": "Eva"})
            assert (status, outcome["result"]) == (409, "rejected")
            assert (await lab.ask("PUT", "/panels/house/users/2", json={}))[0] == 422

    run(go())


def test_the_history_is_searched_page_by_page(run, tmp_path):
    """Filters and cursor; a command is there with the token's name and without its code."""

    async def go():
        async with api(tmp_path) as lab:
            await lab.connect()
            now = lab.gateway.wall_ms()
            for number in (1, 2, 3):
                events = lab.panel.take(m.ZoneLifestyle(zone=number, state=1), "live", now + number)
                await lab.gateway.history.append("house", events)
            await lab.ask("POST", PARTITION + "/arm", "ana", json={"mode": "away", "code": CODE})
            await lab.gateway.history.flush()
            _, page = await lab.ask("GET", "/history?kinds=zone_opened&order=oldest&limit=2", "reader")
            assert [one["zone_label"] for one in page["entries"]] == ["Front Door", "Hall"]
            _, rest = await lab.ask(
                "GET", f"/history?kinds=zone_opened&order=oldest&limit=2&cursor={page['cursor']}", "reader"
            )
            assert ([one["zone"] for one in rest["entries"]], rest["cursor"]) == ([3], "")
            _, mine = await lab.ask("GET", "/history?asker=ana", "reader")
            (command,) = mine["entries"]
            assert (command["kind"], command["detail"]["result"]) == ("command", "accepted")
            assert CODE not in json.dumps(mine)
            for query in ("kinds=nonsense", "cursor=1", "limit=0", "since=1", "zone=1&zone=2"):
                status, problem = await lab.ask("GET", f"/history?{query}", "reader")
                assert (status, problem["errors"][0]["field"][:5]) == (422, "query"), query

    run(go())


def test_the_history_is_exported(run, tmp_path):
    """CSV and JSON lines hold everything that is found, and are streamed."""

    async def go():
        async with api(tmp_path) as lab:
            await lab.connect()
            for number in range(1, 9):
                events = lab.panel.take(m.ZoneLifestyle(zone=number, state=1), "live", number)
                await lab.gateway.history.append("house", events)
            status, raw = await lab.ask("GET", "/history.csv?kinds=zone_opened&order=oldest", "reader")
            rows = list(csv.DictReader(io.StringIO(raw.decode())))
            assert (status, [row["zone"] for row in rows]) == (200, [str(one) for one in range(1, 9)])
            _, raw = await lab.ask("GET", "/history.jsonl?zone=3&kinds=zone_opened", "reader")
            assert [json.loads(line)["zone"] for line in raw.splitlines()] == [3]
            status, _ = await lab.ask("GET", "/history.csv?kinds=bad", "reader")
            assert status == 422

    run(go())


def test_the_doctor_tells_of_failures_and_who_knocked(run, tmp_path):
    """The live phase, the last sentences, and learning as an explicit, timed mode."""

    async def go():
        async with api(tmp_path) as lab:
            _, doctor = await lab.ask("GET", "/doctor")
            assert [one["phase"] for one in doctor["panels"]] == ["disconnected", "disconnected"]
            assert "[851]" in doctor["panels"][0]["diagnosis"]
            assert (await lab.ask("GET", "/learning"))[1] == {"left_s": 0.0, "panels": []}
            status, learning = await lab.ask("PUT", "/learning", json={"for_s": 60})
            assert (status, learning["left_s"]) == (200, pytest.approx(60, abs=5))
            assert learning["left_s"] == round(learning["left_s"], 1)
            assert (await lab.ask("DELETE", "/learning"))[0] == 204
            assert (await lab.ask("GET", "/learning"))[1]["left_s"] == 0.0
            assert (await lab.ask("PUT", "/learning", "ana"))[0] == 403

    run(go())


def test_what_nobody_can_ask_for_is_listed(run, tmp_path):
    """Issue: what has no public layout is not guessed; the registry says so."""

    async def go():
        async with api(tmp_path) as lab:
            _, found = await lab.ask("GET", "/unsupported", "reader")
            assert {one["what"] for one in found["commands"]} == set(UNSUPPORTED)

    run(go())


@pytest.mark.parametrize(
    ("headers", "query", "answer"),
    [
        ({}, "", (401, "no_token")),
        ({"Authorization": "Bearer nonsense"}, "", (401, "invalid_token")),
        ({"Authorization": "Basic eDp5"}, "", (401, "no_token")),
        (bearer("ana"), "?token=x", (400, "token_in_url")),
    ],
)
def test_who_is_not_known_is_told_nothing(run, tmp_path, headers, query, answer):
    """RFC 6750 section 3.1; a token in a URL is refused, good or not."""

    async def go():
        async with api(tmp_path) as lab:
            status, problem = await lab.ask("GET", "/panels" + query, None, headers=headers)
            assert (status, problem["type"].rpartition(":")[2]) == answer
            (told,) = lab.events("itv2.api_token_refused")
            assert (told["address"], told["why"]) == ("127.0.0.1", answer[1])

    run(go())


def test_a_token_may_be_known_by_its_digest_only(run, tmp_path):
    """The configuration need not hold the token; everybody can ask what theirs is good for."""

    async def go():
        async with api(tmp_path) as lab:
            status, found = await lab.ask("GET", "/token", "hashed")
            assert (status, found["name"], found["scopes"]) == (200, "hashed", ["read"])

    run(go())


def test_a_reload_takes_tokens_away(run, tmp_path):
    """A token that is gone from the configuration opens nothing any more."""

    async def go():
        async with api(tmp_path) as lab:
            assert (await lab.ask("GET", "/panels", "reader"))[0] == 200
            lab.api.reload(http_settings(tokens=()))
            assert (await lab.ask("GET", "/panels", "reader"))[0] == 401

    run(go())


def test_a_body_that_does_not_fit_is_named_by_field_and_never_repeated(run, tmp_path):
    """Bad input gets one clear line; a code in it appears nowhere."""

    async def go():
        async with api(tmp_path) as lab:
            await lab.connect()
            for body, field in (
                ({"mode": "away", "code": "12345"}, "$.code"),
                ({"mode": "sideways"}, "$.mode"),
                ({"mode": "away", "pin": "5555"}, "$"),
            ):
                status, problem = await lab.ask("POST", PARTITION + "/arm", "ana", json=body)
                assert (status, problem["errors"][0]["field"]) == (422, field)
                assert "12345" not in json.dumps(problem)
                assert "sideways" not in json.dumps(problem)

    run(go())


def test_a_web_page_of_a_listed_origin_may_ask(run, tmp_path):
    """CORS by a list of origins, never a wildcard."""

    async def go():
        async with api(tmp_path, http_settings(origins=("https://desk.example.net",))) as lab:
            headers = {"Origin": "https://desk.example.net", "Access-Control-Request-Method": "POST"}
            url = f"{lab.url}{BASE}{PARTITION}/arm"
            async with lab.http.options(url, headers=headers) as answer:
                assert answer.status == 204
                assert answer.headers["Access-Control-Allow-Origin"] == "https://desk.example.net"
            async with lab.http.options(url, headers={**headers, "Origin": "https://evil.example"}) as answer:
                assert answer.status == 403

    run(go())


def test_health_needs_no_token(run, tmp_path):
    """Probes have none; nothing is told of panels."""

    async def go():
        async with api(tmp_path) as lab:
            assert (await lab.ask("GET", "/healthz", None))[1]["status"] == "up"

    run(go())


def test_no_secret_is_in_a_text_form():
    """A struct with a code in it that is logged by mistake shows nothing."""
    from sojourn.gateways.itv2.http import rest_types as t  # noqa: PLC0415 - used here only

    assert CODE not in repr(t.ArmBody("away", CODE))
    assert word("ana") not in repr(http_settings())
