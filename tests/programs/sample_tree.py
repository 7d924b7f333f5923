"""Makes a directory with one of everything that an archiver must keep.

usage: sample_tree.py DIRECTORY
"""

import os
import random
import sys
import zlib

root = os.fsencode(sys.argv[1])
noise = random.Random(20)
os.mkdir(root)
os.chdir(root)

for number in range(12):
    directory = f"d{number}/inner".encode()
    os.makedirs(directory)
    for size in (0, 1, 4095, 4096, 70_000 + number):
        path = os.path.join(directory, b"%d.bin" % size)
        with open(path, "wb") as file:
            file.write(noise.randbytes(size))
        os.chmod(path, noise.choice([0o644, 0o600, 0o755, 0o444]))
os.makedirs("empty/empty")
os.mkdir("sticky")
os.chmod("sticky", 0o1777)
os.mkdir("closed")
os.chmod("closed", 0o700)
for name in [b"not utf-8 \xff\xfe", "größer \N{SNOWMAN}".encode(), b"line\nbreak", b"n" * 255, b"-dash", b" space "]:
    with open(name, "wb") as file:
        file.write(name)

# A file of which most is a hole.
with open("sparse", "wb") as file:
    file.seek(3 << 20)
    file.write(b"end")

os.symlink("d0/inner/1.bin", "link")
os.symlink("nowhere/at/all", "dangling")
os.symlink("../empty", "d1/up")
os.symlink("x" * 1000, "long")
for number in range(3):
    os.link("d2/inner/4096.bin", f"d{number}/hard")
os.link("link", "link-again")
os.mkfifo("fifo")

os.setxattr("d3/inner/1.bin", "user.colour", b"blue\0green")
os.setxattr("d3/inner/1.bin", "user.empty", b"")
os.setxattr("d3", "user.of_a_directory", bytes(range(200)))

# Times last, deepest first: before 1970, with nanoseconds, and after 2038. Which one is a matter of the name, since
# every file system lists in an order of its own.
times = [-86_399_999_999_750, 1_234_567_890_123_456_789, 4_000_000_000_000_000_001]
for path, directories, files in os.walk(b".", topdown=False):
    for name in directories + files + [b"."]:
        full = os.path.join(path, name)
        time = times[zlib.crc32(os.path.normpath(full)) % 3]
        os.utime(full, ns=(time, time), follow_symlinks=False)
