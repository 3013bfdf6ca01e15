from wit_world.exports import on_deliver_session
from wit_world.imports import delivery
from wit_world.imports.types import Replacement

class OnDeliverSession(exports.OnDeliverSession):
    """What do subscribers get? Asked once a message and session, which is dear in large rooms.

    The answer depends on arguments, context and settings alone.
    """

    def on_deliver_session(self, message: delivery.Message, to: on_deliver_session.Recipient) -> delivery.Verdict:
        text = message.data.decode(errors="replace")
        if not text:
            return delivery.Verdict_Drop()
        return delivery.Verdict_Replace(Replacement(f"{text} (for {to.user})".encode(), None))
