#!/usr/bin/env bash
# Several processes write one database in each journal mode, one is killed in a transaction, and nothing is lost.
set -euo pipefail
for mode in delete truncate persist wal; do
    /usr/bin/python3 -I sqlite.py "$mode"
done
