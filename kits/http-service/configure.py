"""Looks whether the service can work as it is set up, and tells it what it need not be told."""
import os
import sys

if sys.argv[1] == "validate":
    if not os.environ["GREETING"].strip():
        sys.exit("GREETING is empty; give one with --env GREETING=…")
else:
    print("NOTE_LIMIT=" + os.environ.get("NOTE_LIMIT", "1000"))
