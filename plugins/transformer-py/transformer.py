"""Makes messages fit for everybody's eyes, on their way out: once a message, for all subscribers alike.

What it answers depends on the message and the settings alone, as `on-deliver` asks for: no state, no clock.
"""

import json
import re
from datetime import datetime, timezone

from wit_world import exports
from wit_world.imports import logging, wasi_config_store as settings
from wit_world.imports.delivery import Message, Verdict, Verdict_Accept, Verdict_Drop, Verdict_Replace
from wit_world.imports.types import Replacement

EMAIL = re.compile(r"[\w.+-]+@[\w-]+(\.[\w-]+)+", re.ASCII)


class OnDeliver(exports.OnDeliver):
    def on_deliver(self, message: Message) -> Verdict:
        try:
            # As text: for bytes `json` would look for codecs, and files to load them from there are none.
            value = json.loads(message.data.decode())
        except ValueError:
            # No JSON: not ours to change.
            return Verdict_Accept()
        if not isinstance(value, dict):
            return Verdict_Accept()
        if value.get("draft") is True:
            offset = f"{message.offset.ms}-{message.offset.seq}"
            logging.log(logging.Level.DEBUG, "draft", f"{message.channel} {offset}")
            return Verdict_Drop()
        for name in hidden():
            value.pop(name, None)
        shown = masked(value)
        # A message's offset says when it was sent, on every node and every time it is delivered.
        sent = datetime.fromtimestamp(message.offset.ms / 1000, timezone.utc)
        shown["sent_at"] = sent.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        data = json.dumps(shown, ensure_ascii=False, separators=(",", ":")).encode()
        return Verdict_Replace(Replacement(data, [("content-type", "application/json")]))


def hidden() -> list[str]:
    """Fields that subscribers do not get: the setting `hide`, names with commas between."""
    names = settings.get("hide")
    names = "internal" if names is None else names
    return [name.strip() for name in names.split(",") if name.strip()]


def masked(value):
    """The value with e-mail addresses in all its texts masked."""
    if isinstance(value, str):
        return EMAIL.sub("•••", value)
    if isinstance(value, list):
        return [masked(inner) for inner in value]
    if isinstance(value, dict):
        return {name: masked(inner) for name, inner in value.items()}
    return value
