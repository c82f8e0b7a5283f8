"""What may be asked of a panel through the API: from a body to a command, and what it takes to be allowed to.

One table, ``ORDERS``: REST and both WebSockets read it. Knows no HTTP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from sojourn.core.secret import Secret
from sojourn.gateways.itv2 import commands as c
from sojourn.gateways.itv2.http import rest_types as t
from sojourn.gateways.itv2.http.problems import FieldError, Kind, Refusal
from sojourn.gateways.itv2.messages import Section
from sojourn.gateways.itv2.words import ARMABLE

if TYPE_CHECKING:
    from sojourn.gateways.itv2.http.tokens import Holder

Target = Literal["panel", "partition", "user"]
"""What an order names beside its panel."""


class Order(NamedTuple):
    """One thing to ask for. ``secret`` is the field of its body in which a code is, ``""``: it takes none."""

    name: str
    target: Target
    command: type
    body: type[t.Body] | None
    secret: str
    make: Callable[[int, Any], c.PanelCommand]

    @property
    def scopes(self) -> tuple[c.Scope, ...]:
        """What the asker must be allowed to do, all of it."""
        return c.SCOPES[self.command]


def _secret(code: str | None) -> Secret | None:
    return None if code is None else Secret(code)


def _arm(partition: int, body: t.ArmBody) -> c.PanelCommand:
    return c.ArmPartition(partition, ARMABLE[body.mode], _secret(body.code))


def _disarm(partition: int, body: t.CodeBody) -> c.PanelCommand:
    return c.DisarmPartition(partition, _secret(body.code))


def _bypass(partition: int, body: t.BypassBody) -> c.PanelCommand:
    return c.BypassZones(partition, body.zones, body.is_bypassed, _secret(body.code))


def _bypass_and_arm(partition: int, body: t.BypassAndArmBody) -> c.PanelCommand:
    return c.BypassAndArm(partition, ARMABLE[body.mode], body.zones, _secret(body.code))


def _clear_bypasses(partition: int, body: t.CodeBody) -> c.PanelCommand:
    return c.ClearBypasses(partition, _secret(body.code))


def _read_users(_number: int, body: t.ReadUsersBody) -> c.PanelCommand:
    return c.ReadUsers(body.first, body.count, _secret(body.master_code))


def _write_user(user: int, body: t.WriteUserBody) -> c.PanelCommand:
    return c.WriteUser(
        user,
        _secret(body.code),
        body.is_enabled,
        body.attributes,
        body.partitions,
        body.label,
        _secret(body.master_code),
    )


def _read_sections(_number: int, body: t.ReadSectionsBody) -> c.PanelCommand:
    sections = tuple(
        Section(one.address, one.count, one.module, one.index, one.is_virtual) for one in body.sections
    )
    return c.ReadSections(sections, _secret(body.installer_code))


def _send_raw(_number: int, body: t.RawBody) -> c.PanelCommand:
    return c.SendRaw(int(body.word, 16), bytes.fromhex(body.body))


def _unsupported(_number: int, body: t.UnsupportedBody) -> c.PanelCommand:
    return c.Unsupported(body.what)


ORDERS: Final = {
    order.name: order
    for order in (
        Order("arm", "partition", c.ArmPartition, t.ArmBody, "code", _arm),
        Order("disarm", "partition", c.DisarmPartition, t.CodeBody, "code", _disarm),
        Order("bypass", "partition", c.BypassZones, t.BypassBody, "code", _bypass),
        Order("bypass_and_arm", "partition", c.BypassAndArm, t.BypassAndArmBody, "code", _bypass_and_arm),
        Order("clear_bypasses", "partition", c.ClearBypasses, t.CodeBody, "code", _clear_bypasses),
        Order("refresh", "panel", c.Refresh, None, "", lambda *_: c.Refresh()),
        Order("read_labels", "panel", c.ReadLabels, None, "", lambda *_: c.ReadLabels()),
        Order("read_users", "panel", c.ReadUsers, t.ReadUsersBody, "master_code", _read_users),
        Order("write_user", "user", c.WriteUser, t.WriteUserBody, "master_code", _write_user),
        Order("read_sections", "panel", c.ReadSections, t.ReadSectionsBody, "installer_code", _read_sections),
        Order("send_raw", "panel", c.SendRaw, t.RawBody, "", _send_raw),
        Order("unsupported", "panel", c.Unsupported, t.UnsupportedBody, "", _unsupported),
    )
}
"""Everything that may be asked for, by the name that REST and the WebSocket give it."""


def command_of(order: Order, holder: Holder, number: int, body: t.Body | None) -> c.PanelCommand:
    """Return what the panel is asked for.

    Raises: Refusal if the token may not, or must bring a code and has not.
    """
    if not holder.may(*order.scopes):
        raise Refusal(Kind.FORBIDDEN, f"this needs the scope {' and '.join(order.scopes)}")
    if body is not None:
        if errors := tuple(body.problems()):
            raise Refusal(Kind.INVALID, errors=errors)
        if holder.needs_code and order.secret and getattr(body, order.secret) is None:
            raise Refusal(Kind.INVALID, errors=(FieldError(f"$.{order.secret}", "this token must bring it"),))
    return order.make(number, body)
