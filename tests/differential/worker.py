"""One user's process: does the system calls it is told of, one JSON line each, and answers with what came of them."""
import ctypes, errno, fcntl, json, mmap, os, stat, struct, sys

libc = ctypes.CDLL(None, use_errno=True)
AT_EMPTY_PATH = 0x1000
NAME_AT = dict(follow_symlinks=False)
# Times before this were set by a step and are compared exactly; later ones are the clock's.
SET_BY_HAND = 10**18


class Skip(Exception):
    """Not done on either side, because it would leave the case's directory."""


class Worker:
    def __init__(self, parent, uid, gid, groups):
        self.parent = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
        self.slots, self.base = {}, None
        if groups is not None:
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)

    def op_begin(self, directory):
        for slot in list(self.slots):
            os.close(self.slots.pop(slot))
        os.umask(0o022)
        os.fchdir(self.parent)
        os.chdir(directory)
        self.base = os.readlink("/proc/self/cwd")

    def base_of(self, at):
        return os.readlink("/proc/self/cwd" if at is None else f"/proc/self/fd/{self.fd(at)}")

    def fd(self, slot):
        if slot not in self.slots:
            raise Skip("slot is empty")
        return self.slots[slot]

    def place(self, where):
        """The path and the directory's descriptor of a place."""
        at, path = where["at"], bytes(where["path"])
        if path.startswith(b"..") and not self.base_of(at).startswith(self.base + "/"):
            raise Skip("outside")
        return path, None if at is None else self.fd(at)

    def put(self, slot, fd):
        if slot in self.slots:
            os.close(self.slots[slot])
        self.slots[slot] = fd

    def told(self, s):
        clock = lambda ns: ns if ns < SET_BY_HAND else "clock"
        return {
            "mode": s.st_mode, "uid": s.st_uid, "gid": s.st_gid, "nlink": s.st_nlink,
            "size": s.st_size, "mtime": clock(s.st_mtime_ns), "atime": clock(s.st_atime_ns),
            # A change of any kind moves ctime, and nothing moves it back.
            "ctime_is_latest": s.st_ctime_ns >= s.st_mtime_ns or clock(s.st_mtime_ns) != "clock",
        }

    def c(self, function, *arguments):
        result = function(*arguments)
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return result

    def at_c(self, fd):
        return -100 if fd is None else fd

    # Names

    def op_open(self, place, flags, mode, slot):
        path, at = self.place(place)
        self.put(slot, os.open(path, flags | os.O_NONBLOCK, mode, dir_fd=at))
        return self.told(os.fstat(self.slots[slot]))

    def op_mkdir(self, place, mode):
        path, at = self.place(place)
        os.mkdir(path, mode, dir_fd=at)

    def op_mknod(self, place, mode):
        path, at = self.place(place)
        os.mknod(path, mode, os.makedev(1, 3), dir_fd=at)

    def op_unlink(self, place):
        path, at = self.place(place)
        os.unlink(path, dir_fd=at)

    def op_rmdir(self, place):
        path, at = self.place(place)
        os.rmdir(path, dir_fd=at)

    def op_rename(self, place, to, flags):
        (path, at), (new, new_at) = self.place(place), self.place(to)
        self.c(libc.renameat2, self.at_c(at), path, self.at_c(new_at), new, flags)

    def op_link(self, place, to, flags):
        (path, at), (new, new_at) = self.place(place), self.place(to)
        self.c(libc.linkat, self.at_c(at), path, self.at_c(new_at), new, flags)

    def op_symlink(self, place, target):
        path, at = self.place(place)
        os.symlink(bytes(target), path, dir_fd=at)

    def op_readlink(self, place):
        path, at = self.place(place)
        return os.readlink(path, dir_fd=at).hex()

    def op_stat(self, place, follow):
        path, at = self.place(place)
        return self.told(os.stat(path, dir_fd=at, follow_symlinks=follow))

    def op_truncate(self, place, size):
        path, at = self.place(place)
        if at is not None:
            raise Skip("truncate(2) takes no directory")
        self.c(libc.truncate, path, ctypes.c_long(size))

    def op_chmod(self, place, mode):
        path, at = self.place(place)
        os.chmod(path, mode, dir_fd=at)

    def op_chown(self, place, uid, gid, follow):
        path, at = self.place(place)
        os.chown(path, uid, gid, dir_fd=at, follow_symlinks=follow)

    def op_utimens(self, place, atime, mtime, follow):
        path, at = self.place(place)
        times = (ctypes.c_long * 4)(atime["seconds"], atime["nanoseconds"], mtime["seconds"], mtime["nanoseconds"])
        self.c(libc.utimensat, self.at_c(at), path, times, 0 if follow else 0x100)

    def op_access(self, place, mode):
        path, at = self.place(place)
        self.c(libc.faccessat, self.at_c(at), path, mode, 0)

    def op_chdir(self, place):
        path, at = self.place(place)
        if at is not None:
            raise Skip("chdir(2) takes no directory")
        os.chdir(path)

    def op_statfs(self, place):
        path, _ = self.place(place)
        s = os.statvfs(path)
        return [s.f_bsize, s.f_frsize, s.f_blocks, s.f_files, s.f_namemax]

    def attribute_place(self, place):
        path, at = self.place(place)
        if at is not None:
            raise Skip("setxattr(2) takes no directory")
        return path

    def op_setxattr(self, place, name, value, flags, follow):
        path = self.attribute_place(place)
        os.setxattr(path, name, bytes(value), flags, follow_symlinks=follow)

    def op_getxattr(self, place, name, follow):
        return os.getxattr(self.attribute_place(place), name, follow_symlinks=follow).hex()

    def op_listxattr(self, place, follow):
        return sorted(os.listxattr(self.attribute_place(place), follow_symlinks=follow))

    def op_removexattr(self, place, name, follow):
        os.removexattr(self.attribute_place(place), name, follow_symlinks=follow)

    # Open files

    def op_close(self, slot):
        fd = self.fd(slot)
        del self.slots[slot]
        os.close(fd)

    def op_umask(self, mask):
        return os.umask(mask)

    def op_fchdir(self, slot):
        os.fchdir(self.fd(slot))

    def op_fstat(self, slot):
        return self.told(os.fstat(self.fd(slot)))

    def op_pread(self, slot, offset, length):
        return self.data(os.pread(self.fd(slot), length, offset))

    def op_read(self, slot, length):
        return self.data(os.read(self.fd(slot), length))

    def op_pwrite(self, slot, offset, length, byte):
        return os.pwrite(self.fd(slot), bytes([byte]) * length, offset)

    def op_write(self, slot, length, byte):
        return os.write(self.fd(slot), bytes([byte]) * length)

    def op_lseek(self, slot, offset, whence):
        # Where a directory ends is the file system's own secret; entries() tries its offsets.
        if stat.S_ISDIR(os.fstat(self.fd(slot)).st_mode):
            raise Skip("a directory")
        if whence in (os.SEEK_DATA, os.SEEK_HOLE):
            return self.look(self.fd(slot), offset, whence)
        return os.lseek(self.fd(slot), offset, whence)

    def look(self, fd, offset, whence):
        """Space that was reserved and not written is data or not as the host's pages happen to be, so an answer is
        right when nothing but zeros is passed over."""
        size = os.fstat(fd).st_size
        try:
            found = os.lseek(fd, offset, whence)
        except OSError as error:
            if error.errno != errno.ENXIO or not 0 <= offset < size or whence == os.SEEK_HOLE:
                raise
            found = size
        os.lseek(fd, 0, os.SEEK_SET)
        if not offset <= found <= size:
            return f"{found} is not from {offset} to {size}"
        try:
            passed = os.pread(fd, found - offset, offset)
        except OSError:
            return "not readable"
        if whence == os.SEEK_DATA and passed.strip(b"\0"):
            return f"data was passed over from {offset} to {found}"

    def op_ftruncate(self, slot, size):
        self.c(libc.ftruncate, self.fd(slot), ctypes.c_long(size))

    def op_fsync(self, slot, data_only):
        (os.fdatasync if data_only else os.fsync)(self.fd(slot))

    def op_fchmod(self, slot, mode):
        os.fchmod(self.fd(slot), mode)

    def op_fchown(self, slot, uid, gid):
        os.fchown(self.fd(slot), uid, gid)

    def op_futimens(self, slot, atime, mtime):
        times = (ctypes.c_long * 4)(atime["seconds"], atime["nanoseconds"], mtime["seconds"], mtime["nanoseconds"])
        self.c(libc.futimens, self.fd(slot), times)

    def op_fallocate(self, slot, mode, offset, length):
        self.c(libc.fallocate, self.fd(slot), mode, ctypes.c_long(offset), ctypes.c_long(length))

    def op_copy_file_range(self, slot, to, offset, to_offset, length):
        return os.copy_file_range(self.fd(slot), self.fd(to), length, offset, to_offset)

    def op_map(self, slot, offset, byte):
        fd = self.fd(slot)
        size = os.fstat(fd).st_size
        if not stat.S_ISREG(os.fstat(fd).st_mode) or size == 0:
            raise Skip("nothing to map")
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        if flags & os.O_PATH:
            raise Skip("the mapping would not be of the descriptor")
        with mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE) as pages:
            pages[offset % size] = byte
            pages.flush()
            return self.data(bytes(pages))

    def op_flock(self, slot, how):
        fcntl.flock(self.fd(slot), how | fcntl.LOCK_NB)

    def op_setlk(self, slot, kind, start, length):
        fcntl.fcntl(self.fd(slot), fcntl.F_SETLK, struct.pack("hhqqi", kind, 0, start, length, 0))

    def op_getlk(self, slot, kind, start, length):
        answer = fcntl.fcntl(self.fd(slot), fcntl.F_GETLK, struct.pack("hhqqi", kind, 0, start, length, 0))
        return struct.unpack("hhqqi", answer)[:4]

    def op_fsetxattr(self, slot, name, value, flags):
        os.setxattr(self.fd(slot), name, bytes(value), flags)

    def op_link_open(self, slot, to):
        """By the magic link, as open(2) shows for giving a name to what was opened."""
        new, new_at = self.place(to)
        self.c(libc.linkat, -100, b"/proc/self/fd/%d" % self.fd(slot), self.at_c(new_at), new, 0x400)

    def op_reopen(self, slot, flags):
        self.put(slot, os.open(f"/proc/self/fd/{self.fd(slot)}", flags | os.O_NONBLOCK))

    def op_entries(self, slot):
        """Every entry once, and each offset leads to what came after it."""
        fd = self.fd(slot)
        os.lseek(fd, 0, os.SEEK_SET)
        listed = self.listed(fd)
        for (_, offset), (name, _) in zip(listed, listed[1:]):
            os.lseek(fd, offset, os.SEEK_SET)
            if self.listed(fd)[0][0] != name:
                return f"offset {offset} does not lead to {name!r}"
        return sorted(name.hex() for name, _ in listed)

    def listed(self, fd):
        buffer, found = ctypes.create_string_buffer(1024), []
        while length := self.c(libc.syscall, 217, fd, buffer, 1024):
            at = 0
            while at < length:
                _, offset, size = struct.unpack_from("QqH", buffer.raw, at)
                name = buffer.raw[at + 19:at + size].split(b"\0")[0]
                found.append((name, offset))
                at += size
        return found

    def data(self, content):
        """Runs of equal bytes, which is how the steps write them."""
        runs = []
        for byte in content:
            if runs and runs[-1][0] == byte:
                runs[-1][1] += 1
            else:
                runs.append([byte, 1])
        return runs

    def op_tree(self):
        """All that is below the case's directory, as root sees it."""
        os.fchdir(self.parent)
        os.chdir(self.base)
        tree, seen = {}, {}
        for directory, names, files in os.walk(b"."):
            for name in [b"."] + names + files:
                path = os.path.join(directory, name)
                s = os.lstat(path)
                told = self.told(s)
                told["same_as"] = seen.setdefault(s.st_ino, path.hex()) if not stat.S_ISDIR(s.st_mode) else None
                told["xattrs"] = {n: os.getxattr(path, n, **NAME_AT).hex() for n in os.listxattr(path, **NAME_AT)}
                del told["atime"]
                if stat.S_ISREG(s.st_mode):
                    with open(path, "rb") as file:
                        told["content"] = self.data(file.read())
                elif stat.S_ISLNK(s.st_mode):
                    told["target"] = os.readlink(path).hex()
                tree[path.hex()] = told
            names.sort()
        # Which of several names came first is the directory's own affair.
        for told in tree.values():
            if told["same_as"]:
                told["same_as"] = min(path for path, other in tree.items() if other["same_as"] == told["same_as"])
        return tree

    def do(self, request):
        try:
            arguments = {k: v for k, v in request.items() if k != "op"}
            return {"ok": getattr(self, "op_" + request["op"])(**arguments)}
        except Skip as skip:
            return {"skip": str(skip)}
        except OSError as error:
            return {"err": errno.errorcode.get(error.errno, error.errno)}


worker = Worker(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]))
for line in sys.stdin:
    print(json.dumps(worker.do(json.loads(line))), flush=True)
