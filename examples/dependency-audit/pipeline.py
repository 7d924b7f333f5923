#!/usr/bin/env python3
"""Dependency audit: what a Rust project depends on, and where its own code uses it.

Reads    <root>/project/Cargo.toml, Cargo.lock and src/**/*.rs     a read-only mount point
         <root>/.belljar/secrets/SIGNING_KEY                       a secret
Writes   <root>/output/dependencies.csv   every crate, one row each
                       summary.json       the figures and findings
                       dependents.svg     the crates that most others need
                       report.html        all of it, signed (see signing.py)
                       report.html.sig    the signature alone
                       audit.log          what was done, and one write that was refused

<root> is the variable BELLJAR_ROOT, which Belljar sets for every process of a sandbox, else /workspace.
The same input and key give the same bytes in every file but the log.

Exit code: 0 done, 1 the input cannot be read or no log written, 3 the read-only mount point could be written to.
"""

import argparse
import logging
import os
import sys
import time
from pathlib import Path

if sys.version_info < (3, 11):
    sys.exit("dependency-audit needs Python 3.11 or newer, which reads TOML by itself")

import chart
import report
import signing
import tables
from lockfile import LockfileError, read_graph
from sources import read_sources

LOG = logging.getLogger("audit")
PROBE_NAME = "written-by-dependency-audit"


def main(arguments=None):
    options = parse(arguments)
    root = Path(os.environ.get("BELLJAR_ROOT", "/workspace"))
    project, output = root / "project", root / "output"

    try:
        start_log(output / "audit.log")
    except OSError as error:
        print(f"cannot write the log: {error}; mount a directory as output", file=sys.stderr)
        return 1
    LOG.info("run %s in %s", os.environ.get("BELLJAR_RUN", "outside a sandbox"), root)
    try:
        graph = read_graph(project)
        LOG.info("Cargo.lock: %d crates, %d direct", len(graph.crates), len(graph.direct()))
        files = read_sources(project / "src", graph.import_names())
        LOG.info("src: %d files, %d lines of code", len(files), sum(f.code for f in files))
        key = signing.read_key(root / ".belljar/secrets/SIGNING_KEY")
    except (LockfileError, OSError, signing.BadKey) as error:
        LOG.error("%s", error)
        return 1
    LOG.info("signing key: %d bytes", len(key))

    write_all(output, graph, files, key)

    if not write_is_refused(project) and not options.allow_writable_project:
        LOG.error("the project is not protected: mount it with --ro, or pass --allow-writable-project")
        return 3
    LOG.info("done")
    return 0


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--allow-writable-project",
        action="store_true",
        help="accept that <root>/project can be written to, as it can outside a sandbox",
    )
    return parser.parse_args(arguments)


def start_log(path):
    """Logs to standard error and to `path`, in UTC, one line per step."""
    form = logging.Formatter("%(asctime)sZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    form.converter = time.gmtime
    LOG.setLevel(logging.INFO)
    for old in list(LOG.handlers):
        LOG.removeHandler(old)
        old.close()
    for handler in (logging.StreamHandler(), logging.FileHandler(path, "w", encoding="utf-8")):
        handler.setFormatter(form)
        LOG.addHandler(handler)


def write_all(output, graph, files, key):
    summary = tables.summary(graph, files)
    write(output / "dependencies.csv", tables.dependencies_csv(graph, files))
    write(output / "summary.json", tables.as_json(summary))

    dependents = chart.dependents(graph)
    write(output / "dependents.svg", dependents)

    page = report.page(graph, files, summary, [dependents, chart.modules(files)])
    signed, signature = signing.sign(page, key)
    write(output / "report.html", signed)
    write(output / "report.html.sig", f"{signature}  report.html\n")


def write(path, text):
    data = text.encode()
    path.write_bytes(data)
    LOG.info("wrote %s: %d bytes", path, len(data))


def write_is_refused(project):
    """Tries to leave a file in the project and records what the system answers."""
    probe = project / PROBE_NAME
    try:
        probe.touch(exist_ok=False)
    except OSError as error:
        LOG.info("write to %s refused: %s (errno %d)", probe, error.strerror, error.errno)
        return True
    probe.unlink()
    LOG.warning("write to %s succeeded; the file was removed again", probe)
    return False


if __name__ == "__main__":
    sys.exit(main())
