"""`regime dead-letter`: look at the events that made judging fail, retry them, or go on without them.

Listing reads the file, whether a service runs or not. Retrying and dropping are words of an operator that go into the
log: the running service takes them; where none runs the store is opened here for as long as it takes.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from datetime import UTC, datetime
from typing import Literal

from regime.errors import CallerError, OperatorError, Unavailable
from regime.events import Command
from regime_service.app import Service
from regime_service.asking import ask
from regime_service.http.operations import as_plain
from regime_service.settings import Settings
from regime_service.stores import DeadLetter
from regime_service.stores.opening import open_store
from regime_service.stores.rows import masked, new_ulid

EXIT_DONE, EXIT_NO = 0, 1


def list_letters(settings: Settings, *, closed: bool, as_json: bool) -> int:
    """Print the dead letters of the store; exit code 0 whether there are any or not."""
    found = _read(settings.store.where, closed=closed)
    if as_json:
        print(json.dumps([as_plain(letter) for letter in found], ensure_ascii=False))
    elif not found:
        print("no dead letters" if closed else "no open dead letters")
    for letter in () if as_json else found:
        when = datetime.fromtimestamp(letter.opened_ms / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M:%S")
        state = "open" if letter.closed_seq is None else f"closed by {letter.how} (event {letter.closed_seq})"
        times = "" if letter.attempts == 1 else f", failed {letter.attempts} times"
        print(f"{letter.id}  {letter.key}  {letter.kind}, event {letter.seq}, {when} UTC, {state}{times}")
        print(f"    {letter.error}")
    return EXIT_DONE


def act_on_letter(settings: Settings, action: Literal["retry", "drop"], number: int, *, actor: str, reason: str) -> int:
    """Retry or drop a letter; exit code 1 when it failed again. Raises `OperatorError` where it cannot be asked for."""
    letter = next((one for one in _read(settings.store.where, closed=False) if one.id == number), None)
    if letter is None:
        raise OperatorError(
            f"no dead letter {number} is open in {masked(settings.store.where)}; "
            "`regime dead-letter list` shows what is"
        )
    try:
        still_open = _ask_service(settings, letter, action, actor=actor, reason=reason)
    except ConnectionRefusedError:
        still_open = asyncio.run(_act_here(settings, letter, action, actor=actor, reason=reason))
    if still_open:
        print(
            f"dead letter {number}: judging failed again, {letter.key} stays paused; regime dead-letter list says why"
        )
        return EXIT_NO
    print(f"dead letter {number} is closed: {letter.key} is judged again from its next event on")
    return EXIT_DONE


def _read(where: str, *, closed: bool) -> list[DeadLetter]:
    store = open_store(where, read_only=True)
    try:
        return store.dead_letters(closed=closed)
    finally:
        store.close()


def _ask_service(settings: Settings, letter: DeadLetter, action: str, *, actor: str, reason: str) -> bool:
    where = f"{settings.server.host}:{settings.server.port}"
    known = ask(settings, "GET", "/v1/dead-letters", None)["dead_letters"]
    if as_plain(letter) not in known:
        raise OperatorError(
            f"the service at {where} does not know dead letter {letter.id} of {masked(settings.store.where)}: it holds "
            "another store, or has dealt with it. Nothing was changed; say which one is meant with --store, --host and "
            "--port"
        )
    body = json.dumps({"actor": actor, "reason": reason}).encode()
    answer = ask(settings, "POST", f"/v1/dead-letters/{letter.id}/{action}", body)
    return bool(answer["open"])


async def _act_here(
    settings: Settings, letter: DeadLetter, action: Literal["retry", "drop"], *, actor: str, reason: str
) -> bool:
    service = Service(settings, deliver=False)
    service.start()
    try:
        event_clock = settings.engine.clock == "event"
        now_ms = time.time_ns() // 1_000_000
        at_ms = service.event_now_ms(letter.key.model) if event_clock else now_ms
        await service.ingest(
            [
                Command(
                    id=new_ulid(now_ms, secrets.token_bytes(10)), action=action, ts_ms=at_ms, **letter.key._asdict(),
                    actor=actor, reason=reason, letter=letter.id,
                )
            ]
        )  # fmt: skip
        return any(one.id == letter.id for one in service.dead_letters())
    except (CallerError, Unavailable) as error:
        raise OperatorError(str(error)) from error
    finally:
        service.stop()
