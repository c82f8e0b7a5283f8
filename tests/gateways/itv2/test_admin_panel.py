"""What operators ask and order of the gateway's page, over the real admin API, with simulated panels on the line."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from admin_lab import TOKENS, told
from itv2_page_lab import BASE, PanelSite, panel_site
from itv2_simulator_lab import identity

from sojourn.gateways.itv2.admin_panel import ASKER
from sojourn.gateways.itv2.mqtt.config import MqttSettings

HOUSE = "/panels/house-0"
CODE = "2345"
WRONG = "9876"
UNKNOWN = identity(9)


def row_of(answer: Any, name: str) -> Any:
    """Return one panel's row of the first news."""
    return next(row for row in answer["rows"] if row["panel"]["name"] == name)


@contextlib.asynccontextmanager
async def live(site: PanelSite, panel: str) -> Any:
    """Follow what changes; yields what returns so many news."""
    headers = {"Authorization": f"Bearer {TOKENS['view']}"}
    async with site.http.get(f"{BASE}/live", headers=headers, params={"panel": panel}) as answer:
        assert answer.status == 200

        async def news(count: int) -> list[Any]:
            return [value for _, value in await told(answer, count)]

        yield news


def test_a_panel_is_told_in_full_with_how_sure_it_is(run: Any, tmp_path: Path) -> None:
    """Every value has its age; what was so before the line was cut is marked."""

    async def go() -> None:
        async with panel_site(tmp_path) as site, site.lab.connected() as panel:
            status, shown = await site.ask("GET", HOUSE)
            assert status == 200
            assert (shown["is_connected"], shown["is_stale"]) == (True, False)
            assert [zone["label"]["value"] for zone in shown["zones"]][:2] == ["Front Door", "Back Door"]
            panel.cut()
            await site.lab.until(lambda: site.lab.panel().session is None)
            _, shown = await site.ask("GET", HOUSE)
            assert (shown["is_connected"], shown["is_stale"]) == (False, True)
            assert shown["zones"][0]["open"]["is_stale"]

    run(go())


def test_a_page_is_told_everything_once_and_then_what_changes(run: Any, tmp_path: Path) -> None:
    """One door is one zone and its partition, not the panel anew; the row counts it."""

    async def go() -> None:
        async with (
            panel_site(tmp_path, count=2) as site,
            site.lab.connected() as panel,
            live(site, "house-0") as news,
        ):
            (first,) = await news(1)
            assert [row["panel"]["name"] for row in first["rows"]] == ["house-0", "house-1"]
            assert len(first["panel"]["zones"]) == 16
            panel.open_zone(1)
            while not (more := (await news(1))[0])["zones"]:
                pass
            assert more["panel"] is None
            assert [(zone["number"], zone["open"]["value"]) for zone in more["zones"]] == [(1, True)]
            assert row_of(more, "house-0")["open_count"] == 1
            assert row_of(more, "house-0")["session"]
            assert more["has_happened"]
            panel.cut()
            while (cut := (await news(1))[0])["panel"] is None:
                pass
            assert cut["panel"]["is_stale"]

    run(go())


def test_a_page_that_goes_away_is_told_no_more(run: Any, tmp_path: Path) -> None:
    """Nothing of it stays with the hub."""

    async def go() -> None:
        async with panel_site(tmp_path) as site:
            hub = site.lab.gateway.hub
            before = len(hub._views)
            async with live(site, "house-0") as news:
                await news(1)
                assert len(hub._views) == before + 1
            async with site.lab.connected():
                await site.lab.until(lambda: len(hub._views) == before)

    run(go())


def test_a_partition_is_armed_and_disarmed_with_a_code(run: Any, tmp_path: Path) -> None:
    """The outcome is the panel's; the history says who asked, and the code is nowhere."""

    async def go() -> None:
        async with panel_site(tmp_path) as site, site.lab.connected():
            status, outcome = await site.order("arm", mode="stay", code=CODE)
            assert (status, outcome["result"]) == (200, "accepted")
            await site.lab.until(lambda: site.lab.partition().mode.value != 0)
            status, outcome = await site.order("disarm", code=CODE)
            assert (status, outcome["result"]) == (200, "accepted")
            await site.lab.until(lambda: site.lab.partition().mode.value == 0)
            _, page = await site.ask("GET", "/history", panels="house-0", kinds="command")
            assert [entry["detail"]["command"] for entry in page["entries"]] == [
                "disarm_partition",
                "arm_partition",
            ]
            assert {entry["asker"] for entry in page["entries"]} == {f"{ASKER}: the token operate"}
            _, everything = await site.ask("GET", "/history")
            site.lab.server.events.flush()
            assert CODE not in json.dumps([everything, site.lab.told], default=str)

    run(go())


def test_a_zone_is_left_out_and_taken_in_again(run: Any, tmp_path: Path) -> None:
    """Bypass and its opposite, as the panel then says it is."""

    async def go() -> None:
        async with panel_site(tmp_path) as site, site.lab.connected() as panel:
            for is_bypassed in (True, False):
                status, outcome = await site.order("bypass", zones=[5], is_bypassed=is_bypassed, code=CODE)
                assert (status, outcome["result"]) == (200, "accepted")
                assert panel.house.zones[5].is_bypassed is is_bypassed
                assert site.lab.zone(5).bypassed.value is is_bypassed

    run(go())


def test_a_wrong_code_is_the_panels_no_in_words(run: Any, tmp_path: Path) -> None:
    """A refusal is an answer, not an error; the audit has it as what it is, and the code nowhere."""

    async def go() -> None:
        async with panel_site(tmp_path) as site, site.lab.connected():
            assert (await site.order("arm", mode="stay"))[1]["result"] == "accepted"
            status, outcome = await site.order("disarm", code=WRONG)
            assert (status, outcome["result"], outcome["reason"]) == (200, "rejected", "wrong access code")
            _, audit = await site.ask("GET", "/history", kinds="command")
            orders = site.lab.events("admin.order")
            assert "disarm" in orders[-1]["what"].lower()
            assert orders[-1]["outcome"] == "rejected: wrong access code"
            assert WRONG not in json.dumps([outcome, audit, site.lab.told], default=str)

    run(go())


@pytest.mark.parametrize(
    ("verb", "body"), [("disarm", {}), ("bypass", {"zones": [5]}), ("disarm", {"code": None})]
)
def test_the_key_of_the_settings_opens_nothing_from_here(
    run: Any, tmp_path: Path, verb: str, body: dict[str, Any]
) -> None:
    """A default code is configured, and yet a person must type one."""

    async def go() -> None:
        async with panel_site(tmp_path) as site, site.lab.connected():
            status, problem = await site.order(verb, **body)
            assert status == 422
            assert problem["errors"][0]["field"] == "$.code"

    run(go())


@pytest.mark.parametrize("code", ["123", "12a4", "123456789", "12 34"])
def test_what_can_be_no_code_is_refused_and_not_repeated(run: Any, tmp_path: Path, code: str) -> None:
    """4, 6 or 8 digits; somebody's typing error is a secret, too."""

    async def go() -> None:
        async with panel_site(tmp_path) as site:
            status, problem = await site.order("disarm", code=code)
            assert status == 422
            assert code not in json.dumps(problem)

    run(go())


@pytest.mark.parametrize("partition", ["0", "33", "x", "1.0", "²", "9" * 30])
def test_a_partition_that_cannot_be_is_not_found(run: Any, tmp_path: Path, partition: str) -> None:
    """Before a panel is asked anything."""

    async def go() -> None:
        async with panel_site(tmp_path) as site:
            path = f"{HOUSE}/partitions/{partition}/disarm"
            assert (await site.ask("POST", path, "operate", {"code": CODE}))[0] == 404

    run(go())


def test_each_operation_is_for_its_scope(run: Any, tmp_path: Path) -> None:
    """View looks, operate gives orders to panels, admin lets unknown ones be seen."""
    orders = [
        ("POST", f"{HOUSE}/partitions/1/arm", {"mode": "stay"}),
        ("POST", f"{HOUSE}/partitions/1/disarm", {"code": CODE}),
        ("POST", f"{HOUSE}/partitions/1/bypass", {"zones": [1], "code": CODE}),
        ("POST", f"{HOUSE}/refresh", None),
    ]
    learning = [("PUT", "/learning", {"for_s": 1.0}), ("DELETE", "/learning", None)]

    async def go() -> None:
        async with panel_site(tmp_path) as site:
            for method, path, body in (*orders, *learning):
                assert (await site.ask(method, path, "view", body))[0] == 403, path
            for method, path, body in learning:
                assert (await site.ask(method, path, "operate", body))[0] == 403, path
            for path in ("/panels", HOUSE, f"{HOUSE}/diagnosis", "/history", "/failures", "/learning"):
                assert (await site.ask("GET", path))[0] == 200, path
            for method, path, body in orders:
                status, outcome = await site.ask(method, path, "operate", body)
                assert (status, outcome["result"]) == (200, "rejected"), path
                assert outcome["reason"] == "the panel is not connected"

    run(go())


def test_a_panel_that_is_not_configured_is_not_found(run: Any, tmp_path: Path) -> None:
    """Whatever is asked of it; a page that watches it waits for it."""

    async def go() -> None:
        async with panel_site(tmp_path) as site:
            for path in ("/panels/nobody", "/panels/nobody/diagnosis"):
                assert (await site.ask("GET", path))[0] == 404
            status, _ = await site.ask("POST", "/panels/nobody/refresh", "operate")
            assert status == 404
            async with live(site, "nobody") as news:
                (first,) = await news(1)
                assert first["panel"] is None

    run(go())


def test_the_history_is_searched_and_read_a_page_at_a_time(run: Any, tmp_path: Path) -> None:
    """Newest first, by cursor, what was just told included; a made-up cursor is refused."""

    async def go() -> None:
        async with panel_site(tmp_path) as site, site.lab.connected() as panel:
            for zone in (1, 2, 3):
                panel.open_zone(zone)
            await site.lab.until(lambda: site.lab.zone(3).open.value)
            query = {"panels": "house-0", "kinds": "zone_opened", "limit": "2"}
            _, first = await site.ask("GET", "/history", **query)
            assert [entry["zone"] for entry in first["entries"]] == [3, 2]
            _, second = await site.ask("GET", "/history", **query, cursor=first["cursor"])
            assert [entry["zone_label"] for entry in second["entries"]] == ["Front Door"]
            assert second["cursor"] == ""
            assert (await site.ask("GET", "/history", cursor="none"))[0] == 400
            assert (await site.ask("GET", "/history", kinds="gossip"))[0] == 400

    run(go())


def test_the_doctor_says_what_is_wrong_and_what_to_do(run: Any, tmp_path: Path) -> None:
    """The gravest first: an alarm, then batteries; a panel that never came is told what to compare."""

    async def go() -> None:
        async with panel_site(tmp_path, count=2) as site, site.lab.connected() as panel:
            assert (await site.ask("GET", f"{HOUSE}/diagnosis"))[1] == {"findings": [], "failures": []}
            panel.house.set_low_battery(6, is_low=True)
            panel.open_zone(7)
            await site.lab.until(lambda: bool((one := site.lab.partition().alarm_zones) and one.value))
            await site.ask("POST", f"{HOUSE}/refresh", "operate")
            _, found = await site.ask("GET", f"{HOUSE}/diagnosis")
            texts = [one["text"] for one in found["findings"]]
            assert texts[0] == "Alarm in House: Smoke Upstairs"
            assert "Low battery: Bedroom Window" in texts
            assert all(one["advice"] for one in found["findings"])
            _, found = await site.ask("GET", "/panels/house-1/diagnosis")
            (away,) = found["findings"]
            assert away["severity"] == "error"
            assert "compare [851]" in away["advice"]

    run(go())


def test_wrong_codes_from_the_page_are_a_finding(run: Any, tmp_path: Path) -> None:
    """Why the next order will be refused, before it is given."""

    async def go() -> None:
        async with panel_site(tmp_path) as site, site.lab.connected():
            for _ in range(3):
                await site.order("arm", mode="stay", code=WRONG)
            _, outcome = await site.order("arm", mode="stay", code=CODE)
            assert outcome["result"] == "rejected"
            _, found = await site.ask("GET", f"{HOUSE}/diagnosis")
            assert [one["topic"] for one in found["findings"]] == ["order"]
            assert "too many were wrong" in found["findings"][0]["text"]

    run(go())


def test_a_failed_handshake_is_told_with_its_sentence(run: Any, tmp_path: Path) -> None:
    """Of the panel itself at its diagnosis, of everybody in the list."""

    async def go() -> None:
        async with (
            panel_site(tmp_path, timing={"step_timeout_s": 0.5}) as site,
            site.lab.simulated(identity(code="F" * 32)),
        ):
            await site.lab.until(lambda: bool(site.lab.gateway.failures.newest_first()))
            _, found = await site.ask("GET", f"{HOUSE}/diagnosis")
            assert "another Type 2 code" in found["failures"][0]["sentence"]
            _, everybody = await site.ask("GET", "/failures")
            assert everybody["failures"][0]["panel"] == "house-0"

    run(go())


def test_who_calls_is_learnt_and_forgotten(run: Any, tmp_path: Path) -> None:
    """Learning begins and ends by an administrator's order."""

    async def go() -> None:
        async with panel_site(tmp_path) as site:
            assert (await site.ask("PUT", "/learning", "admin", {"for_s": 60.0}))[0] == 200
            async with site.lab.simulated(UNKNOWN):
                await site.lab.until(lambda: bool(site.lab.gateway.learnt))
                _, learning = await site.ask("GET", "/learning")
                assert [one["integration_id"] for one in learning["panels"]] == [UNKNOWN.integration_id]
            assert (await site.ask("DELETE", "/learning", "admin"))[0] == 204
            _, learning = await site.ask("GET", "/learning")
            assert learning == {"left_s": 0.0, "panels": []}

    run(go())


def texts_of(site: PanelSite) -> list[str]:
    """Return what the overview tells of the gateway."""
    return [one.text for one in site.lab.gateway.troubles()]


def test_what_is_wrong_comes_first_in_the_overview(run: Any, tmp_path: Path) -> None:
    """Alarms before panels that are away before batteries; nothing where all is well."""

    async def go() -> None:
        async with panel_site(tmp_path, count=2) as site, site.lab.connected() as panel:
            assert texts_of(site) == ["Panel house-1 is not connected"]
            async with site.lab.connected(identity(1)) as other:
                assert texts_of(site) == []
                other.house.set_fault(2, has_fault=True)
                panel.open_zone(7)
                await site.lab.until(
                    lambda: bool(site.lab.partition(1).trouble.value and site.lab.partition().alarm.value)
                )
                first, *rest = site.lab.gateway.troubles()
                assert (first.severity, first.link) == ("error", "#/gateways/itv2")
                assert first.text.startswith("house-0: Alarm in House")
                assert 0 <= site.lab.server.clock() - first.since < 10
                assert [one.severity for one in rest] == ["warning"]
                assert rest[0].text.startswith("house-1: ")

    run(go())


def test_many_panels_that_are_away_are_one_line(run: Any, tmp_path: Path) -> None:
    """An operator reads that the line is down, not two hundred names."""

    async def go() -> None:
        async with panel_site(tmp_path, count=200) as site:
            (line,) = texts_of(site)
            assert line == "200 panels are not connected: house-0, house-1, house-10 and 197 more"

    run(go())


def test_a_broker_that_is_not_reached_is_told(run: Any, tmp_path: Path) -> None:
    """Homes see nothing then, while panels are served all the same."""

    async def go() -> None:
        nobody = MqttSettings(url="mqtt://127.0.0.1:1")
        async with panel_site(tmp_path, mqtt=nobody) as site, site.lab.connected():
            (line,) = texts_of(site)
            assert line.startswith("The MQTT broker is not reached; ")

    run(go())


def test_a_history_that_cannot_be_written_is_told(run: Any, tmp_path: Path) -> None:
    """Panels are served all the same, so somebody has to be told."""

    async def go() -> None:
        async with panel_site(tmp_path, count=0) as site:
            history = site.lab.gateway.history
            assert history is not None
            assert texts_of(site) == []
            history.trouble = "disk full"
            (line,) = texts_of(site)
            assert line.startswith("The history cannot be written: disk full")
            history.trouble = ""

    run(go())
