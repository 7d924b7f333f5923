"""Every way out of a sandbox that is known, tried inside one. Prints {"attempt": outcome} as JSON.

    escapes CANARY    a file of the host, by the host's path, that nothing in here may reach

An outcome is the errno's name, or what was reached. What needs namespaces of the command's own is tried in a child that makes them.
"""

import ctypes
import errno
import json
import os
import socket
import stat
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x1000, 0x8000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_MOVE, MS_REC = 1, 32, 4096, 8192, 16384
# What every mount of a sandbox has. With these a remount asks for nothing but to be writable.
REMOUNT = MS_REMOUNT | 2 | 4 | 8
MNT_DETACH = 2
NEWNS, NEWUSER, NEWPID, NEWNET = 0x20000, 0x10000000, 0x20000000, 0x40000000
# Numbers that every architecture shares (asm-generic/unistd.h).
OPEN_TREE, MOVE_MOUNT, FSOPEN, PIDFD_OPEN, PIDFD_GETFD, MOUNT_SETATTR = 428, 429, 430, 434, 438, 442
CANARY = sys.argv[1]
READ_ONLY = ["/", "/usr", "/proc", "/workspace", "/workspace/in", "/workspace/.belljar", "/run/belljar"]
COVERS = ["/workspace/in", "/workspace/out", "/workspace/.belljar", "/workspace", "/proc/kallsyms", "/proc", "/tmp", "/"]


def call(name, *arguments):
    result = getattr(libc, name)(*(a.encode() if isinstance(a, str) else a for a in arguments))
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def system_call(number, *arguments):
    return call("syscall", ctypes.c_long(number), *arguments)


def outcome(function):
    try:
        result = function()
        return "done" if result in (None, 0) else str(result)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))


def mount(source, at, kind, flags, data=None):
    call("mount", source, at, kind, ctypes.c_ulong(flags), data)


def clear_read_only(path, flags=0):
    # struct mount_attr: set, clear, propagation, user namespace.
    attributes = struct.pack("QQQQ", 0, MS_RDONLY, 0, 0)
    system_call(MOUNT_SETATTR, AT_FDCWD, path, flags, attributes, ctypes.c_size_t(len(attributes)))


def cloned(path, flags=1):
    return system_call(OPEN_TREE, AT_FDCWD, path, flags)


def moved(path):
    descriptor = cloned(path, 0)
    try:
        system_call(MOVE_MOUNT, descriptor, "", AT_FDCWD, "/tmp/place", 4)
    finally:
        os.close(descriptor)


def writable_copy(path, recursive):
    """A copy of a mount may be had where mounts may be made; it must keep what the mount was."""
    mount(path, "/tmp/place", None, MS_BIND | (MS_REC if recursive else 0))
    try:
        mount(None, "/tmp/place", None, REMOUNT | MS_BIND)
        return "writable"
    finally:
        call("umount2", "/tmp/place", MNT_DETACH)


def opened(path, flags=os.O_RDONLY):
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    try:
        return "reached " + repr(os.pread(descriptor, 200, 0))
    finally:
        os.close(descriptor)


def written(path, text=b"1"):
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text)
        return "written"
    finally:
        os.close(descriptor)


def by_handle(directory, kind, payload):
    handle = ctypes.create_string_buffer(struct.pack("Ii", len(payload), kind) + payload)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return "reached " + os.readlink(f"/proc/self/fd/{call('open_by_handle_at', descriptor, handle, os.O_RDONLY)}")
    finally:
        os.close(descriptor)


def mounts_attempts():
    for path in READ_ONLY:
        yield f"remount {path}", lambda path=path: mount(None, path, None, REMOUNT | MS_BIND)
        yield f"remount file system {path}", lambda path=path: mount(None, path, None, REMOUNT)
        yield f"mount_setattr {path}", lambda path=path: clear_read_only(path)
        yield f"mount_setattr all below {path}", lambda path=path: clear_read_only(path, AT_RECURSIVE)
        for recursive in [False, True]:
            how = "rbind" if recursive else "bind"
            yield f"{how} and remount {path}", lambda path=path, recursive=recursive: writable_copy(path, recursive)
    for path in COVERS:
        yield f"umount {path}", lambda path=path: call("umount2", path, 0)
        yield f"umount detached {path}", lambda path=path: call("umount2", path, MNT_DETACH)
        yield f"mount --move {path}", lambda path=path: mount(path, "/tmp/place", None, MS_MOVE)
        yield f"move_mount {path}", lambda path=path: moved(path)
    # What is covered would be seen in a copy without the covers.
    yield "open_tree /workspace", lambda: os.close(cloned("/workspace"))
    yield "open_tree /proc", lambda: os.close(cloned("/proc"))
    yield "open_tree /", lambda: os.close(cloned("/"))
    yield "mount proc", lambda: mount("proc", "/tmp/place", "proc", 0)
    yield "mount sysfs", lambda: mount("sysfs", "/tmp/place", "sysfs", 0)
    yield "mount devtmpfs", lambda: mount("devtmpfs", "/tmp/place", "devtmpfs", 0)
    yield "mount fusectl", lambda: mount("fusectl", "/tmp/place", "fusectl", 0)
    yield "mount debugfs", lambda: mount("debugfs", "/tmp/place", "debugfs", 0)
    yield "mount a disk", lambda: mount("/dev/null", "/tmp/place", "ext4", 0)
    yield "mount fuse", lambda: mount("x", "/tmp/place", "fuse", 0, b"fd=0,rootmode=40000,user_id=0,group_id=0")
    yield "control: fsopen ext4", lambda: os.close(system_call(FSOPEN, "ext4", 0))


def rights_attempts():
    yield "mknod block", lambda: os.mknod("/tmp/disk", 0o600 | stat.S_IFBLK, os.makedev(8, 0))
    yield "mknod character", lambda: os.mknod("/tmp/memory", 0o600 | stat.S_IFCHR, os.makedev(1, 1))
    yield "mknod block in the workspace", lambda: os.mknod("/workspace/out/disk", 0o600 | stat.S_IFBLK, os.makedev(8, 0))
    yield "mknod fuse", lambda: os.mknod("/tmp/fuse", 0o600 | stat.S_IFCHR, os.makedev(10, 229))
    yield "init_module", lambda: call("init_module", b"", ctypes.c_ulong(0), "")
    yield "swapon", lambda: call("swapon", "/dev/null", 0)
    yield "syslog", lambda: call("klogctl", 3, ctypes.create_string_buffer(64), 64)
    yield "setns of pid 1", lambda: call("setns", os.open("/proc/1/ns/mnt", os.O_RDONLY), 0)
    for directory in ["/", "/workspace/in", "/workspace/out", "/usr"]:
        for kind, payload in [(1, struct.pack("II", 2, 0)), (1, struct.pack("II", 1, 0)), (0x81, struct.pack("QI", 1, 0))]:
            yield (f"open_by_handle_at {directory} type {kind} of {payload[0]}",
                   lambda directory=directory, kind=kind, payload=payload: by_handle(directory, kind, payload))


def paths_attempts():
    places = {"absolute": CANARY, "climbing": "../" * 40 + CANARY[1:], "root of pid 1": "/proc/1/root" + CANARY,
              "working directory of pid 1": "/proc/1/cwd" + CANARY, "own root": "/proc/self/root" + CANARY,
              "beside": "../canary/file", "above": "../../canary/file"}
    for name, target in places.items():
        link = f"/workspace/out/{name.replace(' ', '-')}"
        os.symlink(target, link)
        yield f"read by a link, {name}", lambda link=link: opened(link)
        yield f"write by a link, {name}", lambda link=link: opened(link, os.O_RDWR)
        yield f"truncate by a link, {name}", lambda link=link: os.truncate(link, 0)
        yield f"name by a link, {name}", lambda link=link: call("linkat", AT_FDCWD, link, AT_FDCWD, "/workspace/out/named", 0x400)
    yield "runtime directory", lambda: os.listdir(os.path.dirname(os.path.dirname(CANARY)) + "/runtime")
    yield "link the workspace's input", lambda: os.link("/workspace/in/data.txt", "/workspace/out/linked")
    yield "link the host's file", lambda: os.link("/usr/bin/env", "/workspace/out/env")
    yield "rename out of the input", lambda: os.rename("/workspace/in/data.txt", "/workspace/out/moved")
    yield "rename into the input", lambda: os.rename("/workspace/out/mine", "/workspace/in/mine")
    yield "bind a socket in the input", lambda: socket.socket(socket.AF_UNIX).bind("/workspace/in/socket")
    for path in ["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/vm/drop_caches", "/proc/sysrq-trigger",
                 "/proc/self/setgroups"]:
        yield f"write {path}", lambda path=path: written(path)
    for path in ["/proc/kcore", "/proc/kallsyms", "/proc/1/environ", "/proc/1/mem", "/proc/1/maps", "/dev/fuse", "/dev/mem", "/dev/kmsg",
                 "/sys/fs/fuse/connections", "/sys/kernel"]:
        yield f"read {path}", lambda path=path: opened(path)


def init_attempts():
    yield "root of pid 1", lambda: os.listdir("/proc/1/root")
    yield "descriptors of pid 1", lambda: os.listdir("/proc/1/fd")
    yield "ptrace pid 1", lambda: call("ptrace", ctypes.c_long(16), ctypes.c_long(1), None, None)
    local = ctypes.create_string_buffer(8)
    vector = struct.pack("QQ", ctypes.addressof(local), 8)
    yield "process_vm_readv of pid 1", lambda: call(
        "process_vm_readv", 1, vector, ctypes.c_ulong(1), vector, ctypes.c_ulong(1), ctypes.c_ulong(0))
    yield "pidfd_getfd of pid 1", lambda: system_call(PIDFD_GETFD, system_call(PIDFD_OPEN, 1, 0), 4, 0)


def where_ends():
    """The root that `..` ends at, from everywhere: it must be the sandbox's own."""
    root = os.stat("/")
    for start in ["/", "/workspace", "/workspace/in", "/workspace/out", "/workspace/.belljar", "/run/belljar", "/proc/self", "/tmp", "/usr/bin"]:
        os.chdir(start)
        for _ in range(40):
            os.chdir("..")
        here = os.stat(".")
        assert (here.st_dev, here.st_ino) == (root.st_dev, root.st_ino), start
    os.chdir("/")
    return "the root"


def chroot_game():
    """chroot(2) below an open directory and climbing above it: with the right to, and up to this namespace's root only."""
    root = os.stat("/")
    above = os.open("/", os.O_RDONLY)
    call("chroot", "/tmp")
    os.fchdir(above)
    for _ in range(40):
        os.chdir("..")
    here = os.stat(".")
    same = (here.st_dev, here.st_ino) == (root.st_dev, root.st_ino)
    call("chroot", ".")
    return "the root" if same else "elsewhere"


def run(prefix, attempts, found):
    for name, function in attempts:
        found[prefix + name] = outcome(function)


def in_namespaces(found):
    """The same with every capability in a user namespace of the command's own, where one can be had."""
    uid = os.getuid()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        inner = {}
        try:
            inner["namespaces"] = outcome(lambda: call("unshare", NEWUSER | NEWNS | NEWPID | NEWNET))
            if inner["namespaces"] == "done":
                # Every capability is there before anybody is mapped.
                status = dict(line.split(":\t", 1) for line in open("/proc/self/status") if ":\t" in line)
                inner["inner: capabilities"] = "some" if int(status["CapEff"], 16) >> 21 & 1 else "none"
                inner["inner: map user 0"] = outcome(lambda: written("/proc/self/uid_map", f"0 {uid} 1".encode()))
                run("inner: ", mounts_attempts(), inner)
                run("inner: ", rights_attempts(), inner)
                run("inner: ", init_attempts(), inner)
                run("inner: ", [("read the canary", lambda: opened(CANARY)),
                                ("pivot_root", lambda: call("pivot_root", "/workspace/in", "/workspace/in")),
                                # What such a namespace may do: without these, that the rest fails would prove little.
                                ("control: rbind and remount /tmp", lambda: writable_copy("/tmp", True)),
                                ("control: rbind and remount /workspace/out", lambda: writable_copy("/workspace/out", True)),
                                ("control: mount tmpfs", lambda: mount("none", "/tmp/place", "tmpfs", 0)),
                                ("control: umount it", lambda: call("umount2", "/tmp/place", 0)),
                                ("read /proc/kallsyms", lambda: opened("/proc/kallsyms")),
                                ("write the input", lambda: opened("/workspace/in/data.txt", os.O_RDWR)),
                                ("control: chroot", chroot_game)], inner)
        except BaseException as error:
            inner["failed"] = repr(error)
        with os.fdopen(writing, "w") as pipe:
            json.dump(inner, pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        found.update(json.load(pipe))
    os.waitpid(child, 0)


found = {}
# What the listing itself opens is the one that is gone when it is looked at.
found["descriptors"] = " ".join(sorted(fd for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")))
os.mkdir("/tmp/place")
found[".."] = outcome(where_ends)
for attempts in [paths_attempts, mounts_attempts, rights_attempts, init_attempts]:
    run("", attempts(), found)
run("", [("unshare of mounts alone", lambda: call("unshare", NEWNS)),
         ("pivot_root", lambda: call("pivot_root", "/tmp", "/tmp")),
         ("chroot", chroot_game)], found)
in_namespaces(found)
json.dump(found, sys.stdout)
