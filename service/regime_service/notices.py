"""`regime alerts`: send one to see whether a channel works, and look at those that were not delivered."""

from __future__ import annotations

import json
import socket
import time
from datetime import UTC, datetime

from regime.errors import OperatorError
from regime_service.alerts import make_channel
from regime_service.alerts.outbox import unsent
from regime_service.alerts.words import of_service
from regime_service.asking import ask
from regime_service.settings import Settings, channel_secrets
from regime_service.stores.opening import open_store

EXIT_DONE, EXIT_NO = 0, 1


def send_test(settings: Settings, name: str) -> int:
    """Send one alert by the channel `name`, from here and not by the service; exit code 1 where it did not arrive.

    Raises `OperatorError` where there is no such channel, or it cannot be made.
    """
    options = next((one for one in settings.alerts.channels if one.name == name), None)
    if options is None:
        known = ", ".join(one.name for one in settings.alerts.channels)
        where = f"the configuration has {known}" if known else "the configuration has no [[alerts.channels]]"
        raise OperatorError(f"there is no alert channel {name!r}; {where}")
    channel = make_channel(options, channel_secrets(options))
    now_ms = time.time_ns() // 1_000_000
    alert = of_service(
        "RegimeTest", f"TEST from regimegate on {socket.gethostname()}",
        "Somebody asked for this message with `regime alerts test`. Nothing happened.",
        "Trades as before.", ["nothing: if you can read this, the channel works"],
        now_ms=now_ms, identity=(name, str(now_ms)), kind="test",
    )  # fmt: skip
    began_s = time.monotonic()
    delivery = channel.send([alert], within_s=options.timeout_s)
    took = f"{time.monotonic() - began_s:.1f} s"
    if delivery.result == "delivered":
        print(f"{name} ({options.kind}): delivered in {took}; look whether it arrived")
        return EXIT_DONE
    if delivery.result == "later":
        print(f"{name} ({options.kind}): not delivered after {took}: {delivery.reason}. An alert would be tried again.")
    else:
        print(
            f"{name} ({options.kind}): refused after {took}: {delivery.reason}. An alert would be given up; "
            "mend the channel."
        )
    return EXIT_NO


def list_alerts(settings: Settings, *, as_json: bool) -> int:
    """Print what waits and what was given up, asking the running service, or its store where none runs."""
    try:
        found = ask(settings, "GET", "/v1/alerts", None)
    except ConnectionRefusedError:
        store = open_store(settings.store.where, read_only=True)
        try:
            found = unsent(store)
        finally:
            store.close()
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return EXIT_DONE
    for channel in found["channels"]:
        last = f"; the last failure: {channel['last_error']}" if channel["last_error"] else ""
        print(
            f"channel {channel['name']} ({channel['kind'] or 'gone'}): {channel['waiting']} waiting, "
            f"{channel['dead']} dead, {channel['delivered']} delivered since the start{last}"
        )
    for one in found["waiting"]:
        tried = f", tried {one['tries']} times: {one['last_error']}" if one["tries"] else ""
        print(f"waiting  {_when(one['recorded_ms'])}  {one['channel']}  {one['subject']}{tried}")
    for one in found["dead"]:
        print(f"dead     {_when(one['recorded_ms'])}  {one['channel']}  {one['subject']}")
        print(f"         {one['reason']}")
    if not found["waiting"] and not found["dead"]:
        print("every alert was delivered")
    return EXIT_DONE


def _when(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
