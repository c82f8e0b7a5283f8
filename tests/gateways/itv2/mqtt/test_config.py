"""``[itv2.mqtt]``: what is a broker's address, and what is not said of one that is wrong."""

from __future__ import annotations

import pytest

from sojourn.core.secret import Secret
from sojourn.gateways.itv2.mqtt.config import Broker, MqttSettings


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("mqtt://broker", Broker("broker", 1883, has_tls=False)),
        ("mqtts://broker.example.net", Broker("broker.example.net", 8883, has_tls=True)),
        ("mqtt://[::1]:1884", Broker("::1", 1884, has_tls=False)),
    ],
)
def test_an_address_names_host_port_and_tls(url, wanted):
    """The ports are those of IANA."""
    settings = MqttSettings(url=url)
    assert settings.broker == wanted
    assert not list(settings.problems())
    assert not str(wanted).startswith("::1")


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"url": "broker:1883"}, "url"),
        ({"url": "http://broker"}, "url"),
        ({"url": "mqtt://broker:99999"}, "url"),
        ({"url": "mqtt://ana:hunter2@broker"}, "url"),
        ({"url": "mqtt://broker/topics"}, "url"),
        ({"ca_file": "ca.pem"}, "url"),
        ({"password": Secret("hunter2")}, "password"),
        ({"certificate_file": "me.pem", "url": "mqtts://broker"}, "private_key_file"),
        ({"reconnect_s": 90.0}, "reconnect_max_s"),
        ({"topic_prefix": "homeassistant"}, "discovery_prefix"),
    ],
)
def test_what_does_not_go_together_is_told_without_its_secrets(more, key):
    """One line each; an address may hold a password, so it is not quoted."""
    ((found_key, *words),) = MqttSettings(**{"url": "mqtt://broker", **more}).problems()
    assert found_key == key
    assert "hunter2" not in " ".join(words)
