from componentize_py_types import Err
from wit_world.exports import authenticate
from wit_world.imports import wasi_config_store as settings
from wit_world.imports.types import Refusal

class Authenticate(exports.Authenticate):
    """Who is this client? Here a token is `<user>:<secret>`, with the setting `secret`. A refusal is raised."""

    def authenticate(self, credentials: authenticate.Credentials) -> authenticate.Identity:
        user, _, shown = (credentials.token or "").partition(":")
        secret = settings.get("secret")
        if not secret or shown != secret:
            raise Err(Refusal("a token user:secret is needed", None))
        return authenticate.Identity(user, None, None, None, None)
