"""
What everybody may ask: to be let in, to be let out, and whether the gateway is alive.
"""

from __future__ import annotations

import time

from bgpy.gateway.answers import Answer, json_answer, refusal, success
from bgpy.gateway.cookie import make_cookie, set_cookie
from bgpy.gateway.doors import Call, Door
from bgpy.gateway.gate import Allow, Rules, is_token, judge
from bgpy.gateway.limits import Limits, parse_object, read_body

#: Bytes of a body of somebody who is not logged in.
_MAX_OPEN_BODY = 64 << 10


class Entry:
    """
    The doors of the log-in.

    Parameters
    ----------
    secret
        The token, the key of the cookie, and what else the gate goes by; nothing is open in these.
    """

    def __init__(self, secret: Rules, limits: Limits) -> None:
        self._secret = secret
        self._limits = limits._replace(max_body_size=min(limits.max_body_size, _MAX_OPEN_BODY))
        self.doors = (
            Door("/login", "POST", self._log_in, "Get the cookie of the page for the token.", "open",
                 request={"token": "The token of the server(Necessary field)"}, result="true"),
            Door("/login", "GET", self._tell_login, "Tell whether the request shows a token or cookie that is right.", "open"),
            Door("/logout", "POST", self._log_out, "Take the cookie back.", result="true"),
            Door("/healthz", "GET", self._health, "Whether the gateway is alive.", "open", answers="json"),
        )  # fmt: skip

    async def _log_in(self, call: Call) -> Answer:
        fields = parse_object(await read_body(call.receive, call.announced, self._limits))
        token = fields.get("token")
        if not self._secret.token:
            return success(True)
        if not isinstance(token, str):
            return refusal(400, "login needs the field 'token', a text", field="token")
        if not is_token(token, self._secret.token):
            return refusal(401, "The token is wrong")
        name = call.facts.cookie_name
        value = make_cookie(self._secret.cookie_key, name, time.time())
        header = set_cookie(name, value, secure=call.facts.scheme == "https")
        return json_answer({"request_result": True, "result": True}, headers={"set-cookie": header})

    async def _tell_login(self, call: Call) -> Answer:
        # The page asks before it asks for anything else: a refusal would be an error in the browser's console.
        return success(isinstance(judge(call.facts, self._secret, time.time()), Allow))

    async def _log_out(self, call: Call) -> Answer:
        header = set_cookie(call.facts.cookie_name, "", secure=call.facts.scheme == "https")
        return json_answer({"request_result": True, "result": True}, headers={"set-cookie": header})

    async def _health(self, call: Call) -> Answer:
        return json_answer({"status": "ok"})
