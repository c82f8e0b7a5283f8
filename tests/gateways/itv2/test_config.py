"""The table ``[itv2]``: what is wrong with one is said at once, with the key and never with a code."""

from __future__ import annotations

import pytest
from itv2_lab import ID, TYPE_1, TYPE_2, panel_settings

from sojourn.config import load_text
from sojourn.config.soundness import warnings_of
from sojourn.config.soundness_itv2 import file_problems
from sojourn.core.clock import utc_now
from sojourn.core.secret import Secret
from sojourn.errors import ConfigError
from sojourn.gateways.itv2.config import Itv2Settings, Timing
from sojourn.gateways.itv2.history import HistorySettings
from sojourn.gateways.itv2.mqtt.config import MqttSettings

TOML = f"""\
[[itv2.panels]]
name = "house"
integration_id = "{ID}"
type2_code = "{TYPE_2}"
"""


def test_one_panel_is_a_configuration():
    """All else has a default; panels dial port 3072."""
    settings = load_text(TOML, "sojourn.toml", {}).itv2
    assert settings is not None
    assert [one.address for one in settings.listeners] == ["0.0.0.0:3072"]
    assert settings.panels[0].type2_code == Secret(TYPE_2)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (f'type1_code = "{TYPE_1}0"', "8 hex digits"),
        ('type1_code = "8765432x"', "8 hex digits"),
        ('default_code = "12345"', "4, 6 or 8 digits"),
        ('firmware = "4.1"', "firmware 4.1 has Type 1 only"),
        ("integration_group = 5", "from 1 to 4"),
        ('zone_details = [{ number = 1, device_class = "gate" }]', "garage_door"),
        ("zone_details = [{ number = 1 }, { number = 1 }]", "one each"),
        ("zones = [1]\nzone_details = [{ number = 2 }]", "one of zones"),
        ("partitions = [1]\nzone_details = [{ number = 2, partitions = [2] }]", "one of partitions"),
        ("partition_details = [{ number = 33 }]", "32"),
        (TOML, "one each"),
    ],
)
def test_what_no_panel_can_have_is_a_problem(line, wanted):
    """Sections 1.1 and 9.4."""
    with pytest.raises(ConfigError) as caught:
        load_text(f"{TOML}{line}\n", "sojourn.toml", {})
    text = str(caught.value)
    assert wanted in text
    assert TYPE_1 not in text
    assert TYPE_2 not in text


def test_a_panel_needs_the_code_of_one_type():
    """Section 8: nothing is ever spoken in clear text."""
    (problem,) = panel_settings(type1_code=None, type2_code=None).problems()
    assert problem[0] == "type2_code"


def test_waits_must_fit_each_other():
    """A poll must be missed before a panel counts as gone."""
    assert [one[0] for one in Timing(silence_timeout_s=50).problems()] == ["silence_timeout_s"]
    assert [one[0] for one in Timing(step_timeout_s=40).problems()] == ["handshake_timeout_s"]
    assert [one[0] for one in Timing(replay_max_s=1).problems()] == ["replay_max_s"]


def test_what_is_hardly_meant_is_a_warning():
    """Section 8.2: Type 1 protects what is sent to the panel by a number that everybody can read."""
    settings = load_text(TOML, "sojourn.toml", {})
    assert warnings_of(settings, utc_now()) == []
    one = panel_settings(name="a", type2_code=None)
    two = panel_settings(name="b", integration_id="0" * 12, type2_code=Secret("12345678" * 4))
    text = "\n".join(
        warnings_of(type(settings)(itv2=Itv2Settings(panels=(one, two), public_address="x" * 33)), utc_now())
    )
    for words in (
        "a has a Type 1 code only",
        "b: type2_code is the factory's",
        "same digit",
        "panels take 32",
    ):
        assert words in text
    (sentence,) = warnings_of(type(settings)(itv2=Itv2Settings()), utc_now())
    assert "no panel is configured" in sentence


def test_the_folder_of_the_history_must_be_there(tmp_path):
    """Before anything is started."""
    good = Itv2Settings(
        history=HistorySettings(file=str(tmp_path / "a.sqlite3")), mqtt=MqttSettings(url="mqtt://b")
    )
    assert list(file_problems(good)) == []
    (problem,) = file_problems(Itv2Settings(history=HistorySettings(file=str(tmp_path / "no" / "a.sqlite3"))))
    assert problem.table == "itv2.history"
