from wit_world.exports import on_session
from wit_world.imports import logging

class OnSession(exports.OnSession):
    """A session came or went."""

    def on_session(self, event: on_session.Event) -> None:
        what = "came" if event.change == on_session.Change.CONNECTED else "went"
        logging.log(logging.Level.INFO, "sessions", f"{event.user} {what}")
