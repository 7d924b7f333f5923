"""Attempts to get something out of a sandbox, each named after what would be lost. Prints {"name": outcome} as JSON.

    attempts HOST    a JSON object: what the host has, to be reached for

An outcome is the errno's name, or what was got. Nothing here does harm when it succeeds, and every attempt is made in a process of its own,
so that one which succeeds, or is killed, changes nothing for the next.
"""

import ctypes
import errno
import fcntl
import json
import mmap
import os
import platform
import resource
import signal
import socket
import struct
import sys

HOST = json.loads(sys.argv[1])
INTEL = platform.machine() == "x86_64"
libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100

# Numbers on x86_64 and on aarch64 (asm-generic/unistd.h); from 424 on they are the same.
NUMBERS = {
    "ptrace": (101, 117), "personality": (135, 92), "chroot": (161, 51), "pivot_root": (155, 41), "mount": (165, 40), "umount2": (166, 39),
    "acct": (163, 89), "settimeofday": (164, 170), "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142), "sethostname": (170, 161),
    "init_module": (175, 105), "delete_module": (176, 106), "quotactl": (179, 60), "vhangup": (153, 58), "syslog": (103, 116),
    "clock_settime": (227, 112), "kexec_load": (246, 104), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "migrate_pages": (256, 238), "unshare": (272, 97), "move_pages": (279, 239), "perf_event_open": (298, 241), "fanotify_init": (300, 262),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "clock_adjtime": (305, 266), "setns": (308, 268),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272), "finit_module": (313, 273), "bpf": (321, 280),
    "userfaultfd": (323, 282), "clone": (56, 220), "clone3": (435, 435), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fspick": (433, 433), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "process_madvise": (440, 440),
    "mount_setattr": (442, 442), "quotactl_fd": (443, 443), "memfd_secret": (447, 447),
}
ONLY_INTEL = {"iopl": 172, "ioperm": 173, "modify_ldt": 154}
NAMESPACES = {"time": 0x80, "mount": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000, "user": 0x10000000, "pid": 0x20000000,
              "net": 0x40000000}


def system_call(number, *arguments):
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = libc.syscall(ctypes.c_long(number), *wide)
    if result == -1:
        raise OSError(ctypes.get_errno(), "refused")
    return result


def call(name, *arguments):
    numbers = NUMBERS.get(name)
    return system_call(numbers[0 if INTEL else 1] if numbers else ONLY_INTEL[name], *arguments)


ATTEMPTS = {}


def attempt(name):
    def keep(function):
        ATTEMPTS[name] = function
        return function
    return keep


def one(name, function):
    ATTEMPTS[name] = function


def created(path):
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))


def opened(path, flags=os.O_RDONLY):
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    try:
        return "reached " + repr(os.pread(descriptor, 64, 0))
    except OSError as error:
        return "opened, then " + errno.errorcode[error.errno]
    finally:
        os.close(descriptor)


def written(path, text=b"1"):
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text)
        return "written"
    finally:
        os.close(descriptor)


# ---- Files of the host

one("the host's programs: a file in /usr", lambda: created("/usr/lost"))
one("the host's programs: one cut short", lambda: os.truncate("/usr/bin/env", 0))
one("the sandbox's root: a file in it", lambda: created("/lost"))
one("the sandbox's root: who is who", lambda: opened("/etc/passwd", os.O_RDWR))
one("the sandbox's root: a directory in /run", lambda: os.mkdir("/run/lost"))
one("the input: changed", lambda: opened("/workspace/in/data.txt", os.O_RDWR))
one("the input: a file in it", lambda: created("/workspace/in/lost"))
one("the input: a name taken away", lambda: os.unlink("/workspace/in/data.txt"))
one("the input: its mount", lambda: "read-only" if os.statvfs("/workspace/in").f_flag & os.ST_RDONLY else "writable")
one("the input: a hard link to it", lambda: os.link("/workspace/in/data.txt", "/workspace/out/linked"))
one("the workspace: a name in it", lambda: os.mkdir("/workspace/lost"))
one("the host's memory: /dev/mem", lambda: opened("/dev/mem"))
one("the host's log: /dev/kmsg", lambda: opened("/dev/kmsg"))
one("the host's mounts: /dev/fuse", lambda: opened("/dev/fuse", os.O_RDWR))
one("the host's machines: /dev/kvm", lambda: opened("/dev/kvm", os.O_RDWR))
one("the host's devices: the mode of /dev/null", lambda: os.chmod("/dev/null", 0o666))
one("the host's devices: the owner of /dev/null", lambda: os.chown("/dev/null", os.getuid(), -1))
one("the host's devices: the times of /dev/zero", lambda: os.utime("/dev/zero"))
one("the host's disks: a node of one", lambda: os.mknod("/tmp/disk", 0o600 | 0x6000, os.makedev(8, 0)))
one("the host's memory: a node of it", lambda: os.mknod("/tmp/memory", 0o600 | 0x2000, os.makedev(1, 1)))
one("an overlay's files: a whiteout", lambda: os.mknod("/tmp/whiteout", 0x2000, 0))
one("the host's secrets: a file of root's alone", lambda: opened("/workspace/out/private"))
one("root: a set-user-id bit on an artifact", lambda: os.chmod("/workspace/out/mine", 0o4755))
one("the host's home directories", lambda: os.listdir("/root"))
one("the host's state: its runtime directory", lambda: os.listdir(HOST["runtime"]))

# ---- The kernel's settings

for setting in ["kernel/core_pattern", "kernel/modprobe", "kernel/hostname", "vm/overcommit_memory", "net/ipv4/ip_forward"]:
    one(f"the host's kernel: /proc/sys/{setting}", lambda setting=setting: written("/proc/sys/" + setting))
one("the host's life: /proc/sysrq-trigger", lambda: written("/proc/sysrq-trigger", b"h"))
one("the host's memory: /proc/kcore", lambda: opened("/proc/kcore"))
one("the host's secrets: /proc/keys", lambda: opened("/proc/keys"))
one("the kernel's addresses: /proc/kallsyms", lambda: opened("/proc/kallsyms"))
one("the kernel's settings: /sys", lambda: os.listdir("/sys"))
one("the out-of-memory killer's choice", lambda: written("/proc/self/oom_score_adj", b"-1000"))


# ---- Other processes

one("the host's processes: its own test killed", lambda: os.kill(HOST["pid"], 0))
one("the host's processes: their list", lambda: " ".join(sorted((n for n in os.listdir("/proc") if n.isdigit() and int(n) > 100), key=int)))
one("the supervisor: its program", lambda: opened("/proc/1/exe", os.O_WRONLY))
one("the supervisor: its root", lambda: os.listdir("/proc/1/root"))
one("the supervisor: its descriptors", lambda: os.listdir("/proc/1/fd"))
one("the supervisor: its memory", lambda: opened("/proc/1/mem", os.O_RDWR))
one("the supervisor: its environment", lambda: opened("/proc/1/environ"))
one("the supervisor: traced", lambda: call("ptrace", 16, 1, 0, 0))
one("another process: tracing", lambda: call("ptrace", 0, 0, 0, 0))


@attempt("the supervisor: stopped and killed")
def stop_and_kill():
    for number in [signal.SIGSTOP, signal.SIGKILL, signal.SIGSEGV]:
        os.kill(1, number)
    return "alive"


@attempt("another process: its memory read")
def read_memory():
    there = ctypes.create_string_buffer(b"8 bytes.")
    here = ctypes.create_string_buffer(8)
    local, remote = (struct.pack("QQ", ctypes.addressof(b), 8) for b in (here, there))
    return call("process_vm_readv", os.getpid(), local, 1, remote, 1, 0)


@attempt("another process: its memory written")
def write_memory():
    here, there = ctypes.create_string_buffer(8), ctypes.create_string_buffer(8)
    local, remote = (struct.pack("QQ", ctypes.addressof(b), 8) for b in (here, there))
    return call("process_vm_writev", os.getpid(), local, 1, remote, 1, 0)


one("another process: its descriptors", lambda: "got" if call("pidfd_getfd", call("pidfd_open", os.getpid(), 0), 0, 0) else "got 0")
one("another process: compared", lambda: call("kcmp", os.getpid(), os.getpid(), 1, 0, 0))
one("another process: its pages advised", lambda: call("process_madvise", call("pidfd_open", os.getpid(), 0), None, 0, 4, 0))
one("another process: its pages moved", lambda: call("move_pages", 0, 0, None, None, None, 0))
one("another process: all its pages moved", lambda: call("migrate_pages", 0, 0, None, None))


# ---- Who the process is

one("root: becoming it", lambda: os.setresuid(1 if os.getuid() == 0 else 0, -1, -1))
one("root: its groups", lambda: os.setgroups([0, 4]))
one("root: its ids", lambda: f"{os.getresuid()} {os.getresgid()}")
one("root: a file given away", lambda: (created("/tmp/mine"), os.chown("/tmp/mine", 1, -1))[1])
one("root: a port of the system's", lambda: socket.socket().bind(("127.0.0.1", 80)))
one("root: the machine's time", lambda: call("settimeofday", None, struct.pack("ii", 0, 0)))
one("root: a higher priority", lambda: os.setpriority(os.PRIO_PROCESS, 0, -5))
one("root: a set-user-id program", lambda: os.popen("/workspace/out/suid").read().strip())
one("root: capabilities", lambda: "".join(sorted({line.split()[1] for line in open("/proc/self/status") if line.startswith("Cap")})))
one("root: a program with capabilities of its own", lambda: os.popen("/workspace/out/capable CapEff /proc/self/status").read().strip())
one("root: privileges by execve", lambda: next(line.split()[1] for line in open("/proc/self/status") if line.startswith("NoNewPrivs")))


# ---- What is left of the start

def here_open():
    """The one that the listing itself opens is gone when it is looked at."""
    return " ".join(sorted(fd for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")))


DESCRIPTORS = here_open()
one("the daemon's descriptors", lambda: DESCRIPTORS)
one("the caller's terminal: its session", lambda: "its own" if SESSION == LEADER else "another's")
SESSION, LEADER = os.getsid(0), os.getpid()
one("the caller's terminal: /dev/tty", lambda: opened("/dev/tty", os.O_RDWR))
one("the command's secrets: a core dump", lambda: str(resource.getrlimit(resource.RLIMIT_CORE)))
one("the caller's environment", lambda: os.environ["CALLERS_OWN"])
one("the sandbox's name", socket.gethostname)


def terminal(request):
    near, far = os.openpty()
    os.login_tty(far) if hasattr(os, "login_tty") else (os.setsid(), fcntl.ioctl(far, 0x540E, 0))
    return fcntl.ioctl(0 if hasattr(os, "login_tty") else far, request, b"\x0a" + bytes(7))


one("the caller's shell: typing into a terminal", lambda: "typed" if terminal(0x5412) else "typed 0")
one("the host's console: its selection", lambda: "done" if terminal(0x541C) else "done 0")
one("the kernel: a line discipline's module", lambda: "done" if terminal(0x5423) else "done 0")
one("the host's console: its messages", lambda: "done" if terminal(0x541D) else "done 0")


# ---- Namespaces, mounts and roots

for name, flag in NAMESPACES.items():
    one(f"a namespace of its own, by unshare: {name}", lambda flag=flag: call("unshare", flag))
    if name != "time":
        def born(flag=flag):
            child = call("clone", flag | signal.SIGCHLD, 0, 0, 0, 0)
            if child == 0:
                os._exit(0)
            os.waitpid(child, 0)
            return "born"
        one(f"a namespace of its own, by clone: {name}", born)
one("a namespace of its own, by clone3", lambda: call("clone3", struct.pack("8Q", 0x10000000, 0, 0, 0, 17, 0, 0, 0), 64))
one("a namespace of another: setns", lambda: call("setns", os.open("/proc/self/ns/mnt", os.O_RDONLY), 0))
one("the mount table: mount", lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, None))
one("the mount table: umount", lambda: call("umount2", b"/workspace/in", 2))
one("the mount table: fsopen", lambda: call("fsopen", b"tmpfs", 0))
one("the mount table: fsconfig", lambda: call("fsconfig", 0, 0, None, None, 0))
one("the mount table: fsmount", lambda: call("fsmount", 0, 0, 0))
one("the mount table: fspick", lambda: call("fspick", AT_FDCWD, b"/tmp", 0))
one("the mount table: open_tree", lambda: call("open_tree", AT_FDCWD, b"/workspace", 1))
one("the mount table: move_mount", lambda: call("move_mount", AT_FDCWD, b"/tmp", AT_FDCWD, b"/tmp", 0))
one("the mount table: mount_setattr", lambda: call("mount_setattr", AT_FDCWD, b"/", 0, struct.pack("4Q", 0, 1, 0, 0), 32))
one("the root: pivot_root", lambda: call("pivot_root", b"/tmp", b"/tmp"))
one("the root: chroot and climb", lambda: call("chroot", b"/tmp"))
one("a file by its handle", lambda: call("open_by_handle_at", 0, ctypes.create_string_buffer(struct.pack("IiII", 8, 1, 2, 0)), 0))
one("a handle of a file", lambda: call("name_to_handle_at", AT_FDCWD, b"/usr", ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128)), ctypes.create_string_buffer(8), 0))


# ---- The kernel's surface

one("the kernel: bpf", lambda: call("bpf", 0, bytes(64), 64))
one("the kernel: userfaultfd", lambda: call("userfaultfd", 1))
one("the kernel: io_uring_setup", lambda: call("io_uring_setup", 4, ctypes.create_string_buffer(120)))
one("the kernel: io_uring_enter", lambda: call("io_uring_enter", 0, 0, 0, 0, None, 0))
one("the kernel: io_uring_register", lambda: call("io_uring_register", 0, 0, None, 0))
one("the kernel: perf_event_open", lambda: call("perf_event_open", struct.pack("II", 1, 112) + bytes(104), 0, -1, -1, 0))
one("the kernel: fanotify_init", lambda: call("fanotify_init", 0x200, 0))
one("the kernel: memfd_secret", lambda: call("memfd_secret", 0))
one("the kernel: another image", lambda: call("kexec_load", 0, 0, None, 0))
one("the kernel: a module", lambda: call("init_module", b"", 0, b""))
one("the kernel: a module's file", lambda: call("finit_module", 0, b"", 0))
one("the kernel: a module taken out", lambda: call("delete_module", b"none", 0))
one("the kernel: its log", lambda: call("syslog", 3, ctypes.create_string_buffer(64), 64))
one("the kernel: code and data as one (READ_IMPLIES_EXEC)", lambda: call("personality", 0x400000))
one("the machine: reboot", lambda: call("reboot", 0, 0, 0, None))
one("the machine: its clock", lambda: call("clock_settime", 0, struct.pack("qq", 0, 0)))
one("the machine: its clock's speed", lambda: call("clock_adjtime", 0, ctypes.create_string_buffer(256)))
one("the machine: its swap", lambda: call("swapon", b"/dev/null", 0))
one("the machine: its swap taken away", lambda: call("swapoff", b"/dev/null"))
one("the machine: its accounts", lambda: call("acct", None))
one("the machine: its quotas", lambda: call("quotactl", 0x80000100, None, 0, None))
one("the machine: its quotas by descriptor", lambda: call("quotactl_fd", 0, 0x80000100, 0, None))
one("the machine: its name", lambda: call("sethostname", b"lost", 4))
one("the machine: its terminals", lambda: call("vhangup"))
one("the user's keys: a key added", lambda: call("add_key", b"user", b"belljar-test", b"x", 1, -3))
one("the user's keys: a key asked for", lambda: call("request_key", b"user", b"belljar-test", None, 0))
one("the user's keys: a keyring", lambda: "joined" if call("keyctl", 1, None) else "joined 0")
if INTEL:
    one("the processor: its ports", lambda: call("iopl", 3))
    one("the processor: one port", lambda: call("ioperm", 0x80, 1, 1))
    one("the processor: its segments", lambda: call("modify_ldt", 0, ctypes.create_string_buffer(64), 64))
    one("the kernel: the calls of x32", lambda: system_call(0x40000000 | 39))

    @attempt("the kernel: the calls of i386")
    def i386():
        # mov eax, 20 (getpid); int 0x80; ret
        code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3]))
        return "answered" if ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))() else "answered 0"


# ---- Networks

SOCKETS = {
    "AF_VSOCK": (40, 1, 0), "AF_PACKET": (17, 3, 0), "AF_ALG": (38, 5, 0), "AF_KEY": (15, 3, 2), "AF_CAN": (29, 3, 1), "AF_TIPC": (30, 2, 0),
    "AF_RDS": (21, 5, 0), "AF_XDP": (44, 3, 0), "AF_BLUETOOTH": (31, 3, 1), "AF_QIPCRTR": (42, 2, 0), "AF_KCM": (41, 2, 0), "AF_SMC": (43, 1, 0),
    "AF_NFC": (39, 5, 0), "AF_APPLETALK": (5, 2, 0), "AF_X25": (9, 5, 0), "AF_PPPOX": (24, 1, 0), "AF_LLC": (26, 1, 0),
    "SOCK_RAW": (2, 3, 1), "SOCK_RAW of IPv6": (10, 3, 58), "SOCK_PACKET": (2, 10, 0), "SCTP": (2, 1, 132), "MPTCP": (2, 1, 262), "UDP-Lite": (2, 2, 136),
    "NETLINK_AUDIT": (16, 3, 9), "NETLINK_NETFILTER": (16, 3, 12), "NETLINK_SOCK_DIAG": (16, 3, 4), "NETLINK_KOBJECT_UEVENT": (16, 3, 15),
}
for name, arguments in SOCKETS.items():
    one(f"a socket of {name}", lambda arguments=arguments: socket.socket(*arguments).close())
one("a pair of sockets of AF_TIPC", lambda: socket.socketpair(30, 1, 0)[0].close())


def connected(kind, address):
    with socket.socket(kind) as peer:
        peer.settimeout(5)
        peer.connect(address)
        return "connected"


one("the host's services: loopback", lambda: connected(socket.AF_INET, ("127.0.0.1", HOST["port"])))
one("the host's services: an abstract socket", lambda: connected(socket.AF_UNIX, "\0" + HOST["abstract"]))
one("the host's services: its sockets by path", lambda: connected(socket.AF_UNIX, HOST["socket"]))
one("the internet", lambda: connected(socket.AF_INET, ("192.0.2.1", 9)))
one("the network: its interfaces", lambda: " ".join(name for _, name in socket.if_nameindex() if name == "eth0" or name not in ("tunl0", "sit0", "gre0")))
one("the host's memory: a segment shared by number", lambda: "found" if shared() >= 0 else "none")


def shared():
    result = libc.shmget(HOST["shared"], 0, 0)
    if result == -1:
        raise OSError(ctypes.get_errno(), "refused")
    return result


def outcome(function):
    """Of a child: it may be killed, change what it is, or never come back."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            result = function()
            text = "done" if result in (None, 0) else str(result)
        except OSError as error:
            text = errno.errorcode.get(error.errno, str(error.errno))
        except Exception as error:
            text = repr(error)
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    status = os.waitpid(child, 0)[1]
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else text


only = HOST.get("only")
json.dump({name: outcome(function) for name, function in ATTEMPTS.items() if not only or name in only}, sys.stdout)
