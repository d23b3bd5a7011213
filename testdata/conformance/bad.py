#!/usr/bin/env python3
"""Judge what detour says of bad configurations.

usage: bad.py DETOUR [BAD_DIR] [-k SUBSTRING] [-v]

For each file that BAD_DIR/index.json lists it runs `DETOUR analyze -f FILE` and compares: `reject` is exit status 1 and a
line that begins FILE:LINE:COLUMN:, `warn` exit status 0 and such a line, `accept` exit status 0 and no such line. The
last line is 'N passed, N failed'; the exit status is 0 only when all passed. -v prints what detour said.
"""
import argparse
import json
import os
import re
import subprocess
import sys


def judge(detour, folder, entry):
    """Gives what is wrong, None when nothing is, and what detour said."""
    name = entry["file"]
    try:
        p = subprocess.run([detour, "analyze", "-f", name], cwd=folder, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as e:
        return "could not run: %s" % e, ""
    said = p.stdout + p.stderr
    placed = [l for l in said.splitlines() if re.match(re.escape(name) + r":[1-9][0-9]*:[1-9][0-9]*: .", l)]
    want = entry["detour"]
    if p.returncode != (1 if want == "reject" else 0):
        return "exit status %d" % p.returncode, said
    if (want == "accept") == bool(placed):
        return "%d lines with a place" % len(placed), said
    return None, said


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("detour")
    ap.add_argument("folder", nargs="?", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "bad"))
    ap.add_argument("-k", default="")
    ap.add_argument("-v", action="store_true")
    o = ap.parse_args()
    detour = os.path.abspath(o.detour) if os.path.exists(o.detour) else o.detour
    passed = failed = 0
    with open(os.path.join(o.folder, "index.json")) as f:
        index = json.load(f)
    for entry in index:
        if o.k not in entry["file"]:
            continue
        wrong, said = judge(detour, o.folder, entry)
        if wrong:
            failed += 1
            print("FAIL %s, wanted %s: %s" % (entry["file"], entry["detour"], wrong))
        else:
            passed += 1
        if o.v:
            print("%s\n%s" % (entry["file"], said))
    print("%d passed, %d failed" % (passed, failed))
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
