"""A webhook's receiver: fails each entry's first attempts, verifies signatures, and says what it took.

    WEBHOOK_SECRET=… python receiver.py

Prints its port, then one line an entry that it took.
"""

import hashlib
import hmac
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = os.environ["WEBHOOK_SECRET"].encode()
lock = threading.Lock()
tried = {}


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        timestamp, offset = self.headers["Tidegate-Timestamp"], self.headers["Tidegate-Offset"]
        expected = "v1=" + hmac.new(SECRET, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
        genuine = hmac.compare_digest(expected, self.headers["Tidegate-Signature"])
        if not genuine or abs(time.time() - int(timestamp)) > 300:
            print(f"{offset} is forged", flush=True)
            return self.answer(401)
        entry = json.loads(body)
        data = entry.get("data", "")
        with lock:
            tried[offset] = tried.get(offset, 0) + 1
            if "refuse" in data:
                return self.answer(400)
            if tried[offset] <= 2 or "never" in data:
                return self.answer(503)
            what = entry.get("event") or entry.get("topic") or self.headers["ce-type"]
            print(f"took {what} of {entry.get('user')} at attempt {self.headers['Tidegate-Attempt']}", flush=True)
            self.answer(200, {"reply": {"you": data}} if data else {})

    def answer(self, status, body=None):
        text = json.dumps(body or {}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
print(f"port {server.server_port}", flush=True)
server.serve_forever()
