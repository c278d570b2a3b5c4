"""Greets, and keeps notes in the working directory."""
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NOTES = "notes.txt"


def notes():
    with open(NOTES, encoding="utf-8") as file:
        return file.read().splitlines()


class Service(BaseHTTPRequestHandler):
    def answer(self, status, value):
        body = (json.dumps(value) + "\n").encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/":
            self.answer(200, {"greeting": os.environ["GREETING"], "limit": int(os.environ["NOTE_LIMIT"])})
        elif self.path == "/notes":
            self.answer(200, notes())
        else:
            self.answer(404, {"error": "not found"})

    def do_POST(self):
        length = int(self.headers.get("Content-Length", 0))
        if self.path != "/notes" or length > int(os.environ["NOTE_LIMIT"]):
            self.answer(400, {"error": "not a note"})
            return
        text = self.rfile.read(length).decode("utf-8", "replace").replace("\n", " ")
        with open(NOTES, "a", encoding="utf-8") as file:
            file.write(text + "\n")
        self.answer(201, notes())


ThreadingHTTPServer(("", 80), Service).serve_forever()
