"""Every way to change a file, tried against every kind of object. The tests run it on the host and inside sandboxes.

    build ROOT OUT UID    makes the tree of objects and the writable directory, owned by UID
    attack ROOT OUT       tries everything; prints {"attempt object": outcome} as JSON
    writable ROOT OUT UID the same by root as UID, with everything made anew before each attempt: what a mount answers that refuses nothing
    control ROOT OUT      tries everything on a writable tree until it has an effect, to show that no attempt is idle

An outcome is the errno's name, or what was reached. ROOT is what must not change, OUT a writable directory beside it.
"""

import ctypes
import errno
import fcntl
import json
import mmap
import os
import shutil
import socket
import stat
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, AT_EMPTY_PATH, AT_SYMLINK_FOLLOW, AT_SYMLINK_NOFOLLOW = -100, 0x1000, 0x400, 0x100
# Numbers that every architecture shares (asm-generic/unistd.h), for calls that the C library may not know.
OPENAT2, FCHMODAT2, SETXATTRAT, REMOVEXATTRAT, FILE_SETATTR = 437, 452, 463, 466, 469


def call(name, *arguments):
    result = getattr(libc, name)(*(a.encode() if isinstance(a, str) else a for a in arguments))
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def system_call(number, *arguments):
    return call("syscall", ctypes.c_long(number), *arguments)


FILES = ["file", "open", "linked", "attributed", "setuid", "deep/a/b/file"]
DIRECTORIES = ["directory", "empty", "setgid", "sticky", "deep/a", "."]
LINKS = ["symlink", "dangling", "to-directory"]
SPECIAL = ["fifo", "socket"]
MISSING = ["new", "directory/new"]
EXISTING = FILES + DIRECTORIES + LINKS + SPECIAL
ALL = EXISTING + MISSING

ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permissions, identity)
    for tag, permissions, identity in [(1, 7, 2**32 - 1), (2, 7, 4242), (4, 5, 2**32 - 1), (16, 7, 2**32 - 1), (32, 4, 2**32 - 1)]
)

# CAP_NET_BIND_SERVICE in the form of vfs_cap_data, version 2 (linux/capability.h).
CAPABILITY = struct.pack("<IIIII", 0x02000000, 1 << 10, 0, 0, 0)


def build(root, out, uid):
    """The objects; everything but `open` belongs to `uid`, so that only the mount can be in the way."""
    os.umask(0)
    os.mkdir(root, 0o755)
    for name in ["directory", "empty", "deep", "deep/a", "deep/a/b"]:
        os.mkdir(f"{root}/{name}", 0o755)
    for name, mode in [("setgid", 0o2775), ("sticky", 0o1777)]:
        os.mkdir(f"{root}/{name}")
        os.chmod(f"{root}/{name}", mode)
    for name, mode in [("file", 0o644), ("open", 0o666), ("linked", 0o644), ("attributed", 0o644), ("setuid", 0o4755),
                       ("deep/a/b/file", 0o600), ("directory/inside", 0o644)]:
        with open(f"{root}/{name}", "wb") as file:
            file.write(name.encode() + b"\n" + b"x" * 9000)
    os.link(f"{root}/linked", f"{root}/directory/linked")
    os.symlink("file", f"{root}/symlink")
    os.symlink("nowhere", f"{root}/dangling")
    os.symlink("directory", f"{root}/to-directory")
    os.mkfifo(f"{root}/fifo", 0o644)
    listener = socket.socket(socket.AF_UNIX)
    os.chdir(root)
    listener.bind("socket")
    listener.close()
    os.chdir("/")
    os.setxattr(f"{root}/attributed", "user.there", b"value")
    os.setxattr(f"{root}/attributed", "system.posix_acl_access", ACL)
    if os.getuid() == 0:
        for top, directories, files in os.walk(root):
            for name in [top] + [f"{top}/{name}" for name in files]:
                os.chown(name, uid, uid, follow_symlinks=False)
        other = 4242 if uid != 4242 else 4243
        os.chown(f"{root}/open", other, other)
        # A change of owner takes the bits away.
        os.chmod(f"{root}/setuid", 0o4755)
        os.setxattr(f"{root}/attributed", "trusted.there", b"value")
        os.setxattr(f"{root}/setuid", "security.capability", CAPABILITY)
    if not os.path.isdir(out):
        os.mkdir(out, 0o755)
        os.chown(out, uid, uid)


# ---- what an attempt can do

ATTEMPTS = []  # (name, objects, function of the object's path and the writable directory)


def attempt(name, objects):
    def keep(function):
        ATTEMPTS.append((name, objects, function))
        return function
    return keep


def written_through(descriptor):
    """What a descriptor that was to be had is good for."""
    try:
        os.pwrite(descriptor, b"WRITTEN", 0)
        return "wrote"
    except OSError as error:
        return f"opened, then {errno.errorcode[error.errno]}"
    finally:
        os.close(descriptor)


def reader(path):
    """For reading only; the control proves with a writer that what is tried through it would have done something."""
    mode = os.O_RDONLY if sys.argv[1] != "control" or os.path.isdir(path) else os.O_RDWR
    return os.open(path, mode | os.O_NONBLOCK)


def path_only(path):
    return os.open(path, os.O_PATH | os.O_NOFOLLOW)


def fresh(out, name="theirs"):
    path = f"{out}/{name}"
    with open(path, "wb") as file:
        file.write(b"attack" * 2000)
    return path


def reopened(path, flags):
    return written_through(os.open(path, flags | os.O_NONBLOCK))


OPENINGS = {
    "O_WRONLY": os.O_WRONLY,
    "O_RDWR": os.O_RDWR,
    "O_WRONLY|O_APPEND": os.O_WRONLY | os.O_APPEND,
    "O_RDONLY|O_TRUNC": os.O_RDONLY | os.O_TRUNC,
    "O_WRONLY|O_TRUNC": os.O_WRONLY | os.O_TRUNC,
    "O_RDWR|O_TRUNC": os.O_RDWR | os.O_TRUNC,
    "O_RDONLY|O_CREAT": os.O_RDONLY | os.O_CREAT,
    "O_RDONLY|O_CREAT|O_TRUNC": os.O_RDONLY | os.O_CREAT | os.O_TRUNC,
    "O_RDWR|O_CREAT": os.O_RDWR | os.O_CREAT,
    "O_RDONLY|O_CREAT|O_EXCL": os.O_RDONLY | os.O_CREAT | os.O_EXCL,
    "O_WRONLY|O_CREAT|O_EXCL": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
    "O_WRONLY|O_NOFOLLOW": os.O_WRONLY | os.O_NOFOLLOW,
    "O_WRONLY|O_SYNC": os.O_WRONLY | os.O_SYNC,
    # Neither reading nor writing, for ioctl(2) alone; asks for both permissions (open(2)).
    "O_ACCMODE": os.O_ACCMODE,
}
for label, flags in OPENINGS.items():
    attempt(f"open {label}", ALL)(lambda p, out, flags=flags: written_through(os.open(p, flags | os.O_NONBLOCK, 0o644)))

for label, flags in [("O_RDWR", os.O_RDWR), ("O_WRONLY|O_EXCL", os.O_WRONLY | os.O_EXCL)]:
    attempt(f"open O_TMPFILE|{label}", DIRECTORIES)(
        lambda p, out, flags=flags: written_through(os.open(p, flags | os.O_TMPFILE, 0o644)))


@attempt("openat2 O_RDWR beneath", ALL)
def _(p, out):
    directory = os.open(os.path.dirname(p), os.O_PATH)
    how = struct.pack("QQQ", os.O_RDWR | os.O_NONBLOCK, 0, 0x08)
    try:
        return written_through(system_call(OPENAT2, directory, os.path.basename(p), how, len(how)))
    finally:
        os.close(directory)


@attempt("creat", ALL)
def _(p, out):
    if stat.S_ISFIFO(os.lstat(p).st_mode if os.path.lexists(p) else 0):
        return "would wait for a reader"
    return written_through(call("creat", p, 0o644))


for size in [0, 100, 1 << 20]:
    attempt(f"truncate {size}", ALL)(lambda p, out, size=size: os.truncate(p, size))


def mode_of(p, follow=True):
    return stat.S_IMODE(os.stat(p, follow_symlinks=follow).st_mode) ^ 0o010


def on_descriptor(opener, function):
    def run(p, out):
        descriptor = opener(p)
        try:
            return function(p, descriptor, out)
        finally:
            os.close(descriptor)
    return run


attempt("chmod", EXISTING)(lambda p, out: os.chmod(p, mode_of(p)))
attempt("chmod setuid", FILES)(lambda p, out: os.chmod(p, 0o6755))
attempt("fchmod of a reader", FILES + DIRECTORIES + ["fifo"])(on_descriptor(reader, lambda p, fd, out: os.fchmod(fd, mode_of(p))))
attempt("fchmodat2 no follow", EXISTING)(
    lambda p, out: system_call(FCHMODAT2, AT_FDCWD, p, mode_of(p, False), AT_SYMLINK_NOFOLLOW) and None)
attempt("fchmodat2 of O_PATH", EXISTING)(
    on_descriptor(path_only, lambda p, fd, out: system_call(FCHMODAT2, fd, "", mode_of(p, False), AT_EMPTY_PATH) and None))
attempt("chmod by /proc/self/fd of O_PATH", EXISTING)(
    on_descriptor(path_only, lambda p, fd, out: os.chmod(f"/proc/self/fd/{fd}", mode_of(p, False))))

for label, uid, gid in [("to itself", None, None), ("to another", 4244, 4244), ("group only", -1, 4244)]:
    def target(p, uid=uid, gid=gid):
        return (os.lstat(p).st_uid, os.lstat(p).st_gid) if uid is None else (uid, gid)
    attempt(f"chown {label}", EXISTING)(lambda p, out, t=target: os.chown(p, *t(p)))
    attempt(f"lchown {label}", EXISTING)(lambda p, out, t=target: os.lchown(p, *t(p)))
    attempt(f"fchown {label} of a reader", FILES + DIRECTORIES)(
        on_descriptor(reader, lambda p, fd, out, t=target: os.fchown(fd, *t(p))))
    attempt(f"fchownat {label} of O_PATH", EXISTING)(
        on_descriptor(path_only, lambda p, fd, out, t=target: call("fchownat", fd, "", *t(p), AT_EMPTY_PATH) and None))

attempt("utimensat now", EXISTING)(lambda p, out: os.utime(p))
attempt("utimensat explicit", EXISTING)(lambda p, out: os.utime(p, (1, 2)))
attempt("utimensat no follow", EXISTING)(lambda p, out: os.utime(p, (1, 2), follow_symlinks=False))
attempt("futimens of a reader", FILES + DIRECTORIES)(on_descriptor(reader, lambda p, fd, out: os.utime(fd, (1, 2))))
attempt("utimensat of O_PATH", EXISTING)(on_descriptor(
    path_only, lambda p, fd, out: call("utimensat", fd, "", struct.pack("qqqq", 1, 0, 2, 0), AT_EMPTY_PATH) and None))
attempt("utimes", EXISTING)(lambda p, out: call("utimes", p, struct.pack("qqqq", 1, 0, 2, 0)) and None)

ATTRIBUTES = {
    "user.new": b"new", "user.there": b"other", "trusted.new": b"new", "security.new": b"new", "security.capability": CAPABILITY,
    "system.posix_acl_access": ACL.replace(struct.pack("<I", 4242), struct.pack("<I", 4245)), "system.posix_acl_default": ACL,
}
for name, value in ATTRIBUTES.items():
    attempt(f"setxattr {name}", EXISTING)(lambda p, out, n=name, v=value: os.setxattr(p, n, v))
    attempt(f"lsetxattr {name}", EXISTING)(lambda p, out, n=name, v=value: os.setxattr(p, n, v, follow_symlinks=False))
    attempt(f"fsetxattr {name} of a reader", FILES + DIRECTORIES)(
        on_descriptor(reader, lambda p, fd, out, n=name, v=value: os.setxattr(fd, n, v)))
for name in ["user.there", "system.posix_acl_access", "trusted.there", "security.capability"]:
    attempt(f"removexattr {name}", EXISTING)(lambda p, out, n=name: os.removexattr(p, n))
    attempt(f"fremovexattr {name} of a reader", FILES)(on_descriptor(reader, lambda p, fd, out, n=name: os.removexattr(fd, n)))


@attempt("setxattrat", EXISTING)
def _(p, out):
    value = ctypes.create_string_buffer(b"new")
    arguments = struct.pack("QII", ctypes.addressof(value), 3, 0)
    system_call(SETXATTRAT, AT_FDCWD, p, AT_SYMLINK_NOFOLLOW, "user.at", arguments, ctypes.c_size_t(len(arguments)))


attempt("removexattrat", EXISTING)(
    lambda p, out: system_call(REMOVEXATTRAT, AT_FDCWD, p, AT_SYMLINK_NOFOLLOW, "user.there") and None)

attempt("unlink", ALL)(lambda p, out: os.unlink(p))
attempt("rmdir", ALL)(lambda p, out: os.rmdir(p))
attempt("unlinkat AT_REMOVEDIR", ["empty"])(
    lambda p, out: call("unlinkat", AT_FDCWD, p, 0x200) and None)

NAMED = [name for name in EXISTING if name != "."]
RENAMES = {"": 0, " noreplace": 1, " exchange": 2, " whiteout": 4}
for label, flags in RENAMES.items():
    def rename(source, target, flags=flags):
        call("renameat2", AT_FDCWD, source, AT_FDCWD, target, flags)
    other = "directory/inside" if flags == 2 else "moved"
    attempt(f"rename{label} within", NAMED)(lambda p, out, r=rename, o=other: r(p, f"{ROOT}/{o}"))
    attempt(f"rename{label} out of", NAMED)(
        lambda p, out, r=rename, f=flags: r(p, fresh(out) if f == 2 else f"{out}/moved"))
    attempt(f"rename{label} into", ["new", "directory/new"] if flags != 2 else FILES)(lambda p, out, r=rename: r(fresh(out), p))
attempt("rename over", FILES + ["symlink", "fifo", "socket"])(lambda p, out: os.rename(f"{ROOT}/directory/inside", p))
attempt("rename into itself", ["directory"])(lambda p, out: os.rename(p, f"{p}/below"))

attempt("link within", NAMED)(lambda p, out: os.link(p, f"{ROOT}/linked-too", follow_symlinks=False))
attempt("link out of", NAMED)(lambda p, out: os.link(p, f"{out}/linked-too", follow_symlinks=False))
attempt("link into", MISSING)(lambda p, out: os.link(fresh(out), p))
attempt("linkat of O_PATH", NAMED)(
    on_descriptor(path_only, lambda p, fd, out: call("linkat", fd, "", AT_FDCWD, f"{ROOT}/linked-too", AT_EMPTY_PATH) and None))
for label, place in [("within", "ROOT"), ("out of", "OUT")]:
    attempt(f"linkat by /proc/self/fd {label}", NAMED)(on_descriptor(
        path_only, lambda p, fd, out, place=place: call(
            "linkat", AT_FDCWD, f"/proc/self/fd/{fd}", AT_FDCWD, f"{ROOT if place == 'ROOT' else out}/linked-too", AT_SYMLINK_FOLLOW) and None))

MADE = MISSING + ["setgid/new", "sticky/new", "to-directory/new", "file", "directory"]
attempt("mkdir", MADE)(lambda p, out: os.mkdir(p))
attempt("mkfifo", MADE)(lambda p, out: os.mkfifo(p))
attempt("mknod regular", MADE)(lambda p, out: os.mknod(p, stat.S_IFREG | 0o644))
attempt("mknod socket", MADE)(lambda p, out: os.mknod(p, stat.S_IFSOCK | 0o644))
attempt("mknod char", MADE)(lambda p, out: os.mknod(p, stat.S_IFCHR | 0o666, os.makedev(1, 3)))
attempt("mknod whiteout", MADE)(lambda p, out: os.mknod(p, stat.S_IFCHR | 0o666, 0))
attempt("mknod block", MADE)(lambda p, out: os.mknod(p, stat.S_IFBLK | 0o666, os.makedev(7, 0)))
attempt("symlink", MADE)(lambda p, out: os.symlink("/etc/passwd", p))


@attempt("bind a socket", MADE)
def _(p, out):
    # By a short path: an address holds 108 bytes.
    os.chdir(os.path.dirname(p))
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            listener.bind(os.path.basename(p))
        finally:
            os.chdir("/")


# ---- through descriptors that were opened for reading

def from_file(function):
    def run(p, fd, out):
        with open(fresh(out), "rb") as source:
            return function(source.fileno(), fd)
    return run


def piped(function):
    def run(p, fd, out):
        near, far = os.pipe()
        try:
            os.write(far, b"x" * 100)
            return function(near, fd)
        finally:
            os.close(near)
            os.close(far)
    return run


def count(result):
    """A call that answers with a number has done something, unless the number is none."""
    return f"moved {result}"


READ = {
    "write": lambda p, fd, out: count(os.write(fd, b"x")),
    "pwrite": lambda p, fd, out: count(os.pwrite(fd, b"x", 0)),
    "pwritev2 append": lambda p, fd, out: count(os.pwritev(fd, [b"x"], 0, 0x10)),
    "ftruncate": lambda p, fd, out: os.ftruncate(fd, 0),
    "sendfile": from_file(lambda source, fd: count(os.sendfile(fd, source, 0, 100))),
    "copy_file_range": from_file(lambda source, fd: count(os.copy_file_range(source, fd, 100, 0, 0))),
    "splice": piped(lambda source, fd: count(os.splice(source, fd, 100, offset_dst=0))),
    "FICLONE": from_file(lambda source, fd: fcntl.ioctl(fd, 0x40049409, source) and None),
    "FICLONERANGE": from_file(lambda source, fd: fcntl.ioctl(fd, 0x4020940D, struct.pack("qQQQ", source, 0, 4096, 0)) and None),
    "FS_IOC_SETFLAGS": lambda p, fd, out: fcntl.ioctl(fd, 0x40086602, struct.pack("l", 0x80)) and None,
    "FS_IOC_FSSETXATTR": lambda p, fd, out: fcntl.ioctl(fd, 0x401C5820, struct.pack("IIIII8x", 0x40, 0, 0, 0, 0)) and None,
    "FS_IOC_SETVERSION": lambda p, fd, out: fcntl.ioctl(fd, 0x40087602, struct.pack("l", 7)) and None,
}
for mode in [0, 1, 3, 8, 16, 32, 64]:
    READ[f"fallocate {mode}"] = lambda p, fd, out, mode=mode: call(
        "fallocate", fd, mode, ctypes.c_long(0), ctypes.c_long(4096)) and None
for name, function in READ.items():
    attempt(f"{name} through a reader", FILES)(on_descriptor(reader, function))
    if not name.startswith(("splice", "sendfile", "copy_file_range", "FICLONE")):
        attempt(f"{name} through O_PATH", FILES)(on_descriptor(path_only, function))


@attempt("setflags O_RDWR on a reader", FILES)
def _(p, out):
    descriptor = reader(p)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_RDWR | os.O_APPEND)
    return written_through(descriptor)


def mapped(p, protection, flags):
    descriptor = reader(p)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    address = libc.mmap(None, 4096, protection, flags, descriptor, 0)
    os.close(descriptor)
    if address == ctypes.c_void_p(-1).value:
        number = ctypes.get_errno()
        raise OSError(number, "mmap")
    return address


attempt("mmap shared for writing", FILES)(lambda p, out: ctypes.memmove(mapped(p, 3, mmap.MAP_SHARED), b"WRITTEN", 7) and "wrote")
attempt("mmap shared validated for writing", FILES)(lambda p, out: ctypes.memmove(mapped(p, 3, 3), b"WRITTEN", 7) and "wrote")


def on_mapping(function, flags=mmap.MAP_SHARED):
    def run(p, out):
        address = mapped(p, 3 if sys.argv[1] == "control" else 1, flags)
        try:
            return function(ctypes.c_void_p(address))
        finally:
            libc.munmap(ctypes.c_void_p(address), 4096)
    return run


def by_memory_file(address):
    descriptor = os.open("/proc/self/mem", os.O_RDWR)
    try:
        return count(os.pwrite(descriptor, b"WRITTEN", address.value))
    finally:
        os.close(descriptor)


def by_process_vm(address):
    data = ctypes.create_string_buffer(b"WRITTEN")
    local = struct.pack("QQ", ctypes.addressof(data), 7)
    remote = struct.pack("QQ", address.value, 7)
    return count(call("process_vm_writev", os.getpid(), local, ctypes.c_ulong(1), remote, ctypes.c_ulong(1), ctypes.c_ulong(0)))


def by_mprotect(address):
    call("mprotect", address, ctypes.c_size_t(4096), 3)
    ctypes.memmove(address, b"WRITTEN", 7)
    return "wrote"


attempt("mprotect of a shared mapping", FILES)(on_mapping(by_mprotect))
# Allowed, and must stay in this process's own copy.
attempt("mprotect of a private mapping", FILES)(on_mapping(by_mprotect, mmap.MAP_PRIVATE))
attempt("/proc/self/mem over a shared mapping", FILES)(on_mapping(by_memory_file))
attempt("/proc/self/mem over a private mapping", FILES)(on_mapping(by_memory_file, mmap.MAP_PRIVATE))
attempt("process_vm_writev over a shared mapping", FILES)(on_mapping(by_process_vm))
for label, advice in [("MADV_REMOVE", 9), ("MADV_POPULATE_WRITE", 23)]:
    attempt(f"{label} of a shared mapping", FILES)(
        on_mapping(lambda address, advice=advice: call("madvise", address, ctypes.c_size_t(4096), advice) and None))


def by_map_file(address):
    begin = f"{address.value:x}-"
    line = next(line for line in open("/proc/self/maps") if line.startswith(begin))
    return reopened("/proc/self/map_files/" + line.split()[0], os.O_RDWR)


attempt("open O_RDWR by map_files", FILES)(on_mapping(by_map_file))

for label, opener in [("a reader", reader), ("O_PATH", path_only)]:
    kinds = FILES + DIRECTORIES + (["symlink", "fifo", "socket"] if opener is path_only else ["fifo"])
    for mode, flags in [("O_RDWR", os.O_RDWR), ("O_WRONLY|O_TRUNC", os.O_WRONLY | os.O_TRUNC), ("O_RDONLY|O_TRUNC", os.O_TRUNC)]:
        attempt(f"open {mode} by /proc/self/fd of {label}", kinds)(
            on_descriptor(opener, lambda p, fd, out, flags=flags: reopened(f"/proc/self/fd/{fd}", flags)))
        attempt(f"open {mode} by /proc/thread-self/fd of {label}", FILES)(
            on_descriptor(opener, lambda p, fd, out, flags=flags: reopened(f"/proc/thread-self/fd/{fd}", flags)))
    attempt(f"truncate by /proc/self/fd of {label}", FILES)(
        on_descriptor(opener, lambda p, fd, out: os.truncate(f"/proc/self/fd/{fd}", 0)))
    attempt(f"setxattr by /proc/self/fd of {label}", FILES)(
        on_descriptor(opener, lambda p, fd, out: os.setxattr(f"/proc/self/fd/{fd}", "user.fd", b"x")))
attempt("open O_RDWR by /proc/self/root", ALL)(lambda p, out: reopened("/proc/self/root" + p, os.O_RDWR))


def by_working_directory(flags):
    def run(p, out):
        os.chdir(os.path.dirname(p))
        try:
            return reopened("/proc/self/cwd/" + os.path.basename(p), flags)
        finally:
            os.chdir("/")
    return run


attempt("open O_RDWR by /proc/self/cwd", ALL)(by_working_directory(os.O_RDWR))
attempt("open O_CREAT by /proc/self/cwd", MISSING)(by_working_directory(os.O_RDWR | os.O_CREAT))


@attempt("open_by_handle_at O_RDWR", FILES + DIRECTORIES)
def _(p, out):
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128))
    mount = ctypes.c_int()
    call("name_to_handle_at", AT_FDCWD, p, handle, ctypes.byref(mount), 0)
    directory = os.open(ROOT, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return written_through(call("open_by_handle_at", directory, handle, os.O_RDWR))
    finally:
        os.close(directory)


@attempt("file_setattr", FILES + DIRECTORIES)
def _(p, out):
    attributes = struct.pack("QIII4x", 0x40, 0, 0, 0)
    system_call(FILE_SETATTR, AT_FDCWD, p, attributes, ctypes.c_size_t(len(attributes)), 0)


# ---- running them

def outcome(function, path, out):
    try:
        result = function(path, out)
        return "done" if result in (None, 0) else result
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))
    finally:
        for name in os.listdir(out):
            leftover = f"{out}/{name}"
            shutil.rmtree(leftover) if os.path.isdir(leftover) and not os.path.islink(leftover) else os.unlink(leftover)


def picture(root):
    seen = []
    for top, directories, files in os.walk(root):
        for path in [top] + [f"{top}/{name}" for name in files]:
            s = os.lstat(path)
            content = open(path, "rb").read() if stat.S_ISREG(s.st_mode) else None
            names = [(n, os.getxattr(path, n, follow_symlinks=False)) for n in os.listxattr(path, follow_symlinks=False)]
            seen.append((path, s.st_ino, s.st_mode, s.st_uid, s.st_gid, s.st_nlink, s.st_mtime_ns, s.st_ctime_ns, content, names))
    return seen


def attack(root, out):
    outcomes = {}
    for name, objects, function in ATTEMPTS:
        for one in objects:
            outcomes[f"{name} {one}"] = outcome(function, f"{root}/{one}", out)
    return outcomes


def control(root, out):
    changed = {}
    for name, objects, function in ATTEMPTS:
        changed[name] = ""
        for one in objects:
            shutil.rmtree(root, ignore_errors=True)
            build(root, out, 12345)
            before = picture(root)
            result = outcome(function, f"{root}/{one}", out)
            if picture(root) != before:
                changed[name] = "changed"
                break
            changed[name] = changed[name] or result
    return changed


def writable(root, out, uid):
    outcomes = {}
    for name, objects, function in ATTEMPTS:
        for one in objects:
            shutil.rmtree(root, ignore_errors=True)
            build(root, out, uid)
            os.setresgid(uid, uid, 0)
            os.setresuid(uid, uid, 0)
            # A change of user closes this process's own /proc entries to it (PR_SET_DUMPABLE).
            call("prctl", 4, 1, 0, 0, 0)
            try:
                outcomes[f"{name} {one}"] = outcome(function, f"{root}/{one}", out)
            finally:
                os.setresuid(0, 0, 0)
                os.setresgid(0, 0, 0)
    return outcomes


verb, ROOT, OUT = sys.argv[1:4]
os.umask(0o022)
if verb == "build":
    build(ROOT, OUT, int(sys.argv[4]))
else:
    verbs = {"attack": attack, "writable": writable, "control": control}
    json.dump(verbs[verb](ROOT, OUT, *map(int, sys.argv[4:])), sys.stdout)
