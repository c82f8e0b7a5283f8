"""Who takes part in a panel's session besides the panel, as its trace tells it: who ordered what, who was told."""

from __future__ import annotations

from pathlib import Path

import pytest
from core_lab import until
from itv2_api_lab import HOUSE_ID, TYPE_2, api

from sojourn.core.secret import Secret
from sojourn.gateways.itv2.peer import PanelIdentity, SimulatedPanel

PARTITION = "/panels/house/partitions/1"


@pytest.mark.parametrize(("code", "result"), [("1234", "accepted"), ("9999", "rejected")])
def test_an_order_over_rest_is_in_the_trace_with_its_token_and_its_end(run, tmp_path: Path, code, result):
    """The token, the panel's command and answer between, the outcome to the token; codes are nowhere."""

    async def go():
        identity = PanelIdentity(HOUSE_ID, 2, Secret("12345678"), Secret(TYPE_2))
        async with api(tmp_path) as lab, SimulatedPanel(identity, "127.0.0.1", lab.port, seed=1) as panel:
            await panel.connected()
            await until(lambda: lab.panel.phase == "connected")
            await lab.ask("POST", PARTITION + "/arm", "ana", json={"mode": "away", "code": code})
            registry = lab.gateway.server.registry
            (session,) = [one for one in registry.live() if one.about == "house"]
            trace = registry.in_words(session, session.trace)
            assert code not in repr([one for one in trace if one.is_leg])
            ordered = [(one.direction, one.name) for one in trace if "REST ana" in {one.source, one.target}]
            assert ordered == [("in", "arm_partition"), ("out", result)]
            names = [one.name for one in trace]
            between = names[names.index("arm_partition") : names.index(result)]
            assert any("Arm" in name for name in between)
            (command,) = [one for one in trace if one.name == "arm_partition"]
            assert command.summary == "partition 1, mode away"
            assert ("itv2", "history") in {(one.source, one.target) for one in trace}

    run(go())
