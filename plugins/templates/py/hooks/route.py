from wit_world.exports import route

class Route(exports.Route):
    """Where does this entry of the ingress go? Here to where the backend says, and to `room:all`."""

    def route(self, entry: route.Entry) -> route.Verdict:
        return route.Verdict_Channels([*entry.to, "room:all"])
