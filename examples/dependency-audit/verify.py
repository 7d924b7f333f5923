#!/usr/bin/env python3
"""Checks the signature of a report: verify.py --key KEYFILE REPORT

When REPORT.sig exists, it must agree. Exit code: 0 the signature fits, 1 it does not, 2 something cannot be read.
"""

import argparse
import sys
from pathlib import Path

import signing


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--key", type=Path, required=True, help="file with the signing key")
    parser.add_argument("report", type=Path)
    options = parser.parse_args(arguments)
    beside = options.report.with_name(options.report.name + ".sig")
    try:
        key = signing.read_key(options.key)
        text = beside.read_text() if beside.exists() else None
        signature = signing.check(options.report.read_bytes(), key, text)
    except signing.BadSignature as error:
        print(f"{options.report}: {error}", file=sys.stderr)
        return 1
    except (OSError, signing.BadKey) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{options.report}: signed with this key ({signature[:16]}…)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
