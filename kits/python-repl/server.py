"""Runs Python that is posted to it, one piece after the other, in one interpreter."""
import ast
import contextlib
import io
import traceback
from http.server import BaseHTTPRequestHandler, HTTPServer

MOST = 1 << 20
names = {"__name__": "__repl__"}


def run(source):
    """Runs statements; the value of a last expression is printed, as at a prompt."""
    tree = ast.parse(source, "<posted>")
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<posted>", "exec"), names)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), "<posted>", "eval"), names)
        if value is not None:
            print(repr(value))


class Repl(BaseHTTPRequestHandler):
    def answer(self, status, text):
        body = text.encode("utf-8", "replace")
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer(200, "POST Python here.\n")

    def do_DELETE(self):
        names.clear()
        names["__name__"] = "__repl__"
        self.answer(200, "")

    def do_POST(self):
        length = int(self.headers.get("Content-Length", 0))
        if length > MOST:
            self.answer(413, "too long\n")
            return
        printed = io.StringIO()
        status = 200
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            try:
                run(self.rfile.read(length).decode("utf-8"))
            except BaseException:
                status = 422
                traceback.print_exc()
        self.answer(status, printed.getvalue())


HTTPServer(("", 8000), Repl).serve_forever()
