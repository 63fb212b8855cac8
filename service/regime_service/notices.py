"""`regime alerts`: send one to see whether a channel works, look at those that were not delivered, send those again
that were given up, or forget them.

The running service is asked; where none runs the store is opened here for as long as it takes.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from regime.errors import CallerError, OperatorError
from regime_service.alerts import make_channel
from regime_service.alerts.outbox import Word, settle_in, unsent
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
    now_ms = _now_ms()
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
    found = _found(settings)
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return EXIT_DONE
    for channel in found["channels"]:
        last = f"; the last failure: {channel['last_error']}" if channel["last_error"] else ""
        held = f"{channel['held']} held for the end of the quiet hours, " if channel["held"] else ""
        print(
            f"channel {channel['name']} ({channel['kind'] or 'gone'}): {channel['waiting']} waiting, {held}"
            f"{channel['dead']} dead, {channel['delivered']} delivered since the start{last}"
        )
    for one in found["waiting"]:
        tried = f", tried {one['tries']} times: {one['last_error']}" if one["tries"] else ""
        print(f"waiting  {_when(one['recorded_ms'])}  {one['channel']}  {one['subject']}{tried}")
    for one in found["dead"]:
        print(f"dead     {_when(one['recorded_ms'])}  {one['channel']}  {one['subject']}")
        print(f"         {one['id']}: {one['reason']}")
    if not found["waiting"] and not found["dead"]:
        print("every alert was delivered")
    if found["dead"]:
        print("send one again: regime alerts retry NUMBER (or --all); forget it: regime alerts drop NUMBER")
    return EXIT_DONE


def settle(settings: Settings, action: Literal["retry", "drop"], ids: Sequence[int], *, actor: str, reason: str) -> int:
    """Send alerts again that were given up, or forget them; without `ids` all that are listed.

    Raises `OperatorError` where one of them was not given up: then nothing is changed.
    """
    asked = list(ids) or [one["id"] for one in _found(settings)["dead"]]
    if not asked:
        print("no alert was given up")
        return EXIT_DONE
    body = json.dumps({"ids": asked, "actor": actor, "reason": reason}).encode()
    try:
        ask(settings, "POST", f"/v1/alerts/{action}", body)
        runs = True
    except ConnectionRefusedError:
        _settle_here(settings, asked, Word(action=action, actor=actor, reason=reason, said_ms=_now_ms()))
        runs = False
    number = "1 alert is" if len(asked) == 1 else f"{len(asked)} alerts are"
    if action == "drop":
        print(f"{number} forgotten")
    elif runs:
        print(f"{number} sent again; regime alerts list shows what came of it")
    else:
        print(f"{number} sent again as soon as the service is started; none runs here")
    return EXIT_DONE


def _settle_here(settings: Settings, ids: Sequence[int], word: Word) -> None:
    # Looked for first: opened for writing, a store that is not there would be made.
    open_store(settings.store.where, read_only=True).close()
    store = open_store(settings.store.where)
    try:
        settle_in(store, ids, word)
    except CallerError as error:
        raise OperatorError(error.detail) from None
    finally:
        store.close()


def _found(settings: Settings) -> dict[str, Any]:
    try:
        found: dict[str, Any] = ask(settings, "GET", "/v1/alerts", None)
        return found
    except ConnectionRefusedError:
        store = open_store(settings.store.where, read_only=True)
        try:
            return unsent(store)
        finally:
            store.close()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _when(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
