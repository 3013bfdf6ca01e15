from wit_world.imports import delivery
from wit_world.imports.types import Replacement

class OnDeliver(exports.OnDeliver):
    """What do subscribers get? Asked once a message, for all alike.

    The answer depends on arguments, context and settings alone.
    """

    def on_deliver(self, message: delivery.Message) -> delivery.Verdict:
        text = message.data.decode(errors="replace")
        if not text:
            return delivery.Verdict_Drop()
        return delivery.Verdict_Replace(Replacement(text.upper().encode(), None))
