from wit_world.exports import on_publish
from wit_world.imports.types import Refusal

class OnPublish(exports.OnPublish):
    """May this client publish this?"""

    def on_publish(self, publication: on_publish.Publication) -> on_publish.Verdict:
        try:
            publication.data.decode()
        except UnicodeDecodeError:
            return on_publish.Verdict_Refuse(Refusal("only text may be published here", None))
        return on_publish.Verdict_Accept()
