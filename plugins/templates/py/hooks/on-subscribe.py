from wit_world.exports import on_subscribe
from wit_world.imports.types import Refusal

class OnSubscribe(exports.OnSubscribe):
    """May this client subscribe?"""

    def on_subscribe(self, request: on_subscribe.Request) -> on_subscribe.Verdict:
        if request.channel.endswith("-closed"):
            return on_subscribe.Verdict_Deny(Refusal(f"{request.channel} is closed", None))
        return on_subscribe.Verdict_Allow()
