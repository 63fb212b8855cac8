"""Fault `schema-change`: the features are not those of the reference."""

from __future__ import annotations

from regime.decision import TradingState
from regime.rules import View, Vote


class Schema:
    """REDUCING while the newest observation's features differ from the reference's (or the first observation's).

    A feature that vanished always pauses; one that appeared does unless `extra_features = "ignore"`: a bot whose
    columns grew in mid-stream has been seen to feed its model the wrong ones.
    """

    code = "schema-change"

    def judge(self, view: View) -> Vote | None:
        data = view.data
        extra = data.extra if data.extra_pauses else ()
        if not data.missing and not extra:
            return None
        parts = []
        if data.missing:
            parts.append(f"{len(data.missing)} missing ({_some(data.missing)})")
        if extra:
            parts.append(f"{len(extra)} not known ({_some(extra)})")
        lift = [f"observations have the features of the {data.schema_source} again"]
        lift.append("a reference with the new features is registered")
        if extra and not data.missing:
            lift.append('extra_features = "ignore" is set, or ignore_features names them')
        return Vote(
            code=self.code,
            text=f"features differ from the {data.schema_source}: {', '.join(parts)}",
            value=float(len(data.missing) + len(extra)), limit=0.0,
            state=TradingState.REDUCING, lift=tuple(lift), fault=True,
        )  # fmt: skip


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


__plugin__ = Schema
