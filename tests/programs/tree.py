"""Prints what is below a directory, one line for each name: what must be the same in a workspace and in a plain directory.

usage: tree.py DIRECTORY [--times PATTERN]... [--leave-out PATTERN]... [--content-varies PATTERN]...

Patterns are those of fnmatch over the path below DIRECTORY; their `*` matches slashes too. The size of a directory and
who owns a file are no part of it.
"""

import argparse
import fnmatch
import hashlib
import os
import stat

parser = argparse.ArgumentParser()
parser.add_argument("directory")
parser.add_argument("--times", action="append", default=[])
parser.add_argument("--leave-out", action="append", default=[])
parser.add_argument("--content-varies", action="append", default=[])
options = parser.parse_args()


def matches(path, patterns):
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def content(path, full, status):
    if stat.S_ISLNK(status.st_mode):
        return "-> " + ascii(os.readlink(full))
    if not stat.S_ISREG(status.st_mode) or matches(path, options.content_varies):
        return "-"
    with open(full, "rb") as file:
        return f"{status.st_size} {hashlib.file_digest(file, 'blake2b').hexdigest()[:32]}"


def show(path):
    full = os.path.join(options.directory, path)
    status = os.lstat(full)
    line = [ascii(path), stat.filemode(status.st_mode), str(status.st_nlink), content(path, full, status)]
    if matches(path, options.times):
        line.append(str(status.st_mtime_ns))
    for name in sorted(os.listxattr(full, follow_symlinks=False)):
        line.append(f"{name}={os.getxattr(full, name, follow_symlinks=False).hex()}")
    print(" ".join(line))
    if stat.S_ISDIR(status.st_mode):
        for name in sorted(os.listdir(full)):
            below = os.path.join(path, name) if path != "." else name
            if not matches(below, options.leave_out):
                show(below)


show(".")
