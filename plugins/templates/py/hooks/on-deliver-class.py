from wit_world.imports import delivery
from wit_world.imports.types import Replacement

class OnDeliverClass(exports.OnDeliverClass):
    """What do subscribers get? Asked once a message and class.

    The answer depends on arguments, context and settings alone.
    """

    def on_deliver_class(self, message: delivery.Message, for_class: str) -> delivery.Verdict:
        text = message.data.decode(errors="replace")
        if not text:
            return delivery.Verdict_Drop()
        return delivery.Verdict_Replace(Replacement(f"{text} (for {for_class})".encode(), None))
