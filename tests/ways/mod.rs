//! Ways in which real programs write files, and what must become of each: a table.
//!
//! A way is a shell script in the writable directory `out`, beside which `other` is a second writable mount point and
//! `input` a read-only one. What was on the host before is named too; it was never written through a workspace.

/// One way of writing.
pub struct Way {
    pub name: &'static str,
    /// Files that the host has in `out` before.
    pub before: &'static [(&'static str, &'static str)],
    /// Each is a run of its own.
    pub runs: &'static [&'static str],
    /// Exactly the artifacts that must be there, with the number of their last version.
    pub expected: &'static [(&'static str, u64)],
}

const fn way(
    name: &'static str,
    runs: &'static [&'static str],
    expected: &'static [(&'static str, u64)],
) -> Way {
    Way { name, before: &[], runs, expected }
}

/// The same where the host has a file `f` before.
const fn over(
    name: &'static str,
    runs: &'static [&'static str],
    expected: &'static [(&'static str, u64)],
) -> Way {
    Way { name, before: &[("f", "one\ntwo\nthree\n")], runs, expected }
}

pub const WAYS: &[Way] = &[
    // A shell.
    way("redirection", &["echo x > f"], &[("f", 1)]),
    way("appending-redirection", &["echo a > f; echo b >> f; echo c >> f"], &[("f", 1)]),
    way("read-write-redirection", &["printf 12345 > f; printf ab 1<> f"], &[("f", 1)]),
    way("three-runs-three-versions", &["echo 1 > f", "echo 2 > f", "echo 3 >> f"], &[("f", 3)]),
    way("the-same-bytes-again", &["echo x > f", "echo x > f"], &[("f", 1)]),
    way("back-to-earlier-bytes", &["echo x > f", "echo y > f", "echo x > f"], &[("f", 3)]),
    way("empty-file", &[": > f"], &[("f", 1)]),
    way("emptied-file", &["echo x > f", ": > f"], &[("f", 2)]),
    way(
        "tee",
        &["echo x | tee a b > c; echo y | tee -a a > /dev/null"],
        &[("a", 1), ("b", 1), ("c", 1)],
    ),
    way(
        "two-descriptors-one-closed",
        &["exec 3> f 4>> f; echo a >&3; exec 3>&-; echo b >&4"],
        &[("f", 1)],
    ),
    way(
        "through-proc-self-fd",
        &["exec 3> f; echo a > /proc/self/fd/3; echo b >> /dev/fd/3"],
        &[("f", 1)],
    ),
    way("here-document", &["cat > f <<END\n$HOME\nEND"], &[("f", 1)]),
    // Coreutils.
    way("cp", &["cp ../input/data.txt f"], &[("f", 1)]),
    way("cp-reflink", &["cp ../input/data.txt f; cp --reflink=auto f g"], &[("f", 1), ("g", 1)]),
    way("cp-sparse", &["truncate -s 1M f; cp --sparse=always f g"], &[("f", 1), ("g", 1)]),
    way(
        "cp-archive",
        &["mkdir -p d/e; echo x > d/e/f; chmod 600 d/e/f; cp -a d g"],
        &[("d/e/f", 1), ("g/e/f", 1)],
    ),
    way("cp-backup", &["echo 1 > f", "echo 2 > g; cp --backup=simple g f"], &[("f", 2), ("g", 1)]),
    way("cp-hard-link", &["echo x > f; cp -l f g"], &[("f", 1)]),
    way("mv-within", &["echo x > f; mv f g"], &[("g", 1)]),
    way("mv-of-what-was-there", &["echo x > f", "mv f g"], &[("f", 1), ("g", 1)]),
    way("mv-over", &["echo old > f; echo new > g; mv g f"], &[("f", 1)]),
    way("mv-across-mount-points", &["echo x > ../other/f; mv ../other/f f"], &[("f", 1)]),
    way("mv-from-tmp", &["echo x > /tmp/f; mv /tmp/f f"], &[("f", 1)]),
    way("mv-of-a-directory", &["mkdir d; echo x > d/f; mv d e"], &[("e/f", 1)]),
    way("install", &["install -m 640 ../input/data.txt f"], &[("f", 1)]),
    way(
        "install-compare",
        &["install -C ../input/data.txt f", "install -C ../input/data.txt f"],
        &[("f", 1)],
    ),
    way("touch-makes-a-file", &["touch f"], &[("f", 1)]),
    way("touch-changes-no-bytes", &["echo x > f", "touch f"], &[("f", 1)]),
    way("truncate", &["echo 123456 > f", "truncate -s 3 f"], &[("f", 2)]),
    way("truncate-grows", &["truncate -s 100K f"], &[("f", 1)]),
    way(
        "split",
        &["seq 1000 | split -l 400 - part."],
        &[("part.aa", 1), ("part.ab", 1), ("part.ac", 1)],
    ),
    way("csplit", &["seq 9 | csplit -s - 4 7"], &[("xx00", 1), ("xx01", 1), ("xx02", 1)]),
    over("sort-in-place", &["sort -r -o f f"], &[("f", 1)]),
    over("shuf-in-place", &["shuf --random-source=/etc/passwd -o f f"], &[("f", 1)]),
    over(
        "dd-in-the-middle",
        &["printf XY | dd of=f bs=1 seek=4 conv=notrunc status=none"],
        &[("f", 1)],
    ),
    way(
        "dd-direct",
        &["dd if=/dev/zero of=f bs=4096 count=4 oflag=direct status=none"],
        &[("f", 1)],
    ),
    way("dd-fsync", &["dd if=/dev/zero of=f bs=1000 count=4 conv=fsync status=none"], &[("f", 1)]),
    way("dd-sparse", &["printf end | dd of=f bs=1M seek=8 status=none"], &[("f", 1)]),
    way("fallocate", &["fallocate -l 64K f"], &[("f", 1)]),
    way(
        "punched-hole",
        &["head -c 65536 /dev/urandom > f", "fallocate -p -o 4096 -l 8192 f"],
        &[("f", 2)],
    ),
    // Archives and copies.
    way(
        "tar-extract",
        &["mkdir d; seq 9 > d/a; seq 8 > d/b; tar -cf /tmp/t d; rm -r d; tar -xf /tmp/t"],
        &[("d/a", 1), ("d/b", 1)],
    ),
    way("tar-create", &["echo x > f; tar -cf all.tar f"], &[("all.tar", 1), ("f", 1)]),
    way(
        "tar-append",
        &["echo x > f; tar -cf all.tar f", "echo y > g; tar -rf all.tar g"],
        &[("all.tar", 2), ("f", 1), ("g", 1)],
    ),
    way(
        "zip-and-unzip",
        &["seq 9 > f; zip -q all.zip f; rm f; unzip -q all.zip; echo x > g; zip -q all.zip g"],
        &[("all.zip", 1), ("f", 1), ("g", 1)],
    ),
    way("gzip", &["seq 99 > f; gzip -n f"], &[("f.gz", 1)]),
    way("gzip-keep", &["seq 99 > f; gzip -nk f"], &[("f", 1), ("f.gz", 1)]),
    way("rsync", &["rsync -a ../input/ d/", "rsync -a ../input/ d/"], &[("d/data.txt", 1)]),
    over("rsync-in-place", &["rsync --inplace -I --checksum ../input/data.txt f"], &[("f", 1)]),
    over("rsync-replaces", &["rsync -I ../input/data.txt f"], &[("f", 1)]),
    way(
        "git",
        &[
            "git init -q .; echo x > f; git add f; git -c user.name=n -c user.email=e@example.org commit -qm m; rm f; git checkout -q -- f; echo y > g",
        ],
        &[("f", 1), ("g", 1)],
    ),
    way(
        "patch-by-git",
        &[
            "seq 9 > f; git init -q .; git add f; sed -i s/5/five/ f; git diff > /tmp/p; git checkout -q -- f; git apply /tmp/p",
        ],
        &[("f", 1)],
    ),
    // Databases.
    way(
        "sqlite",
        &[
            "sqlite3 db.sqlite 'create table t (a); insert into t values (1)'",
            "sqlite3 db.sqlite 'insert into t values (2)'",
        ],
        &[("db.sqlite", 2)],
    ),
    way(
        "sqlite-wal",
        &[
            "sqlite3 db.sqlite 'pragma journal_mode=wal; create table t (a); insert into t values (1)' > /dev/null",
        ],
        &[("db.sqlite", 1)],
    ),
    way(
        "sqlite-backup",
        &["sqlite3 db.sqlite 'create table t (a)' '.backup copy.sqlite'"],
        &[("copy.sqlite", 1), ("db.sqlite", 1)],
    ),
    // Editors.
    over(
        "an-editors-backup-and-rename",
        &["cp -p f f~; echo new > .f.new; mv .f.new f"],
        &[("f", 1)],
    ),
    over("vi", &["vi -es -u NONE -c '1s/one/1/' -c wq f"], &[("f", 1)]),
    over(
        "vi-with-a-backup",
        &["vi -es -u NONE -c 'set backup backupcopy=no' -c '1s/one/1/' -c wq f"],
        &[("f", 1)],
    ),
    over(
        "vi-writes-in-place",
        &["vi -es -u NONE -c 'set nobackup nowritebackup' -c '$d' -c wq f"],
        &[("f", 1)],
    ),
    over("sed-in-place", &["sed -i s/one/1/ f"], &[("f", 1)]),
    over(
        "sed-in-place-twice",
        &["sed -i s/one/1/ f; sed -i s/two/2/ f", "sed -i s/three/3/ f"],
        &[("f", 2)],
    ),
    over("perl-in-place", &["perl -pi -e s/one/1/ f"], &[("f", 1)]),
    over("perl-in-place-with-a-copy", &["perl -i.bak -pe s/one/1/ f"], &[("f", 1), ("f.bak", 1)]),
    way("awk", &["seq 6 | awk '{ print > ($1 % 2) \".txt\" }'"], &[("0.txt", 1), ("1.txt", 1)]),
    // Python: the system calls that programs use, one at a time.
    way("python-open", &["python3 -c \"open('f','w').write('x')\""], &[("f", 1)]),
    over("python-append", &["python3 -c \"open('f','a').write('x')\""], &[("f", 1)]),
    over(
        "python-read-and-write",
        &["python3 -c \"f=open('f','r+'); f.seek(2); f.write('XX')\""],
        &[("f", 1)],
    ),
    way(
        "python-write-and-read",
        &["python3 -c \"f=open('f','w+'); f.write('abc'); f.seek(0); assert f.read()=='abc'\""],
        &[("f", 1)],
    ),
    way("python-exclusive", &["python3 -c \"open('f','x').write('x')\""], &[("f", 1)]),
    over(
        "python-map",
        &[
            "python3 -c \"import mmap; f=open('f','r+b'); m=mmap.mmap(f.fileno(),0); m[0:3]=b'ONE'; m.flush()\"",
        ],
        &[("f", 1)],
    ),
    over(
        "python-map-outlives-the-descriptor",
        &[
            "python3 -c \"import mmap,os; fd=os.open('f',os.O_RDWR); m=mmap.mmap(fd,0); os.close(fd); import time; time.sleep(.3); m[0:3]=b'MAP'\"",
        ],
        &[("f", 1)],
    ),
    way(
        "python-replace",
        &["python3 -c \"import os; open('.f.part','w').write('x'); os.replace('.f.part','f')\""],
        &[("f", 1)],
    ),
    way(
        "python-named-temporary-linked",
        &[
            "python3 -c \"import os,tempfile as t; f=t.NamedTemporaryFile('w',dir='.'); f.write('x'); f.flush(); os.link(f.name,'f'); f.close()\"",
        ],
        &[("f", 1)],
    ),
    way(
        "python-temporary-vanishes",
        &[
            "python3 -c \"import tempfile as t; f=t.NamedTemporaryFile('w',dir='.'); f.write('x'); f.close()\"",
        ],
        &[],
    ),
    way(
        "python-mkstemp-chmod-rename",
        &[
            "python3 -c \"import os,tempfile as t; fd,n=t.mkstemp(dir='.'); os.write(fd,b'x'); os.fchmod(fd,0o644); os.fsync(fd); os.close(fd); os.rename(n,'f')\"",
        ],
        &[("f", 1)],
    ),
    way(
        "python-shutil",
        &[
            "python3 -c \"import shutil as s; s.copyfile('../input/data.txt','f'); s.copytree('../input','d'); s.move('f','g')\"",
        ],
        &[("d/data.txt", 1), ("g", 1)],
    ),
    way(
        "python-sendfile",
        &[
            "python3 -c \"import os; i=os.open('../input/data.txt',0); o=os.open('f',os.O_WRONLY|os.O_CREAT); assert os.sendfile(o,i,0,100)>0\"",
        ],
        &[("f", 1)],
    ),
    way(
        "python-splice",
        &[
            "python3 -c \"import os; r,w=os.pipe(); os.write(w,b'through a pipe'); o=os.open('f',os.O_WRONLY|os.O_CREAT); assert os.splice(r,o,14)==14\"",
        ],
        &[("f", 1)],
    ),
    over(
        "python-copy-file-range",
        &[
            "python3 -c \"import os; i=os.open('f',0); o=os.open('g',os.O_WRONLY|os.O_CREAT); assert os.copy_file_range(i,o,100)==14\"",
        ],
        &[("g", 1)],
    ),
    way(
        "python-pwrite",
        &[
            "python3 -c \"import os; o=os.open('f',os.O_WRONLY|os.O_CREAT); os.pwritev(o,[b'a',b'b'],5)\"",
        ],
        &[("f", 1)],
    ),
    over("python-truncate-by-name", &["python3 -c \"import os; os.truncate('f',2)\""], &[("f", 1)]),
    way(
        "python-created-for-reading",
        &["python3 -c \"import os; os.open('f',os.O_RDONLY|os.O_CREAT)\""],
        &[("f", 1)],
    ),
    over("python-opened-and-not-written", &["python3 -c \"open('f','r+').read()\""], &[]),
    way(
        "python-no-name",
        &[
            "python3 -c \"\nimport os, errno\ntry: os.open('.', os.O_TMPFILE|os.O_RDWR)\nexcept OSError as e: assert e.errno == errno.EOPNOTSUPP, e\nelse: raise SystemExit('O_TMPFILE was not refused')\"",
        ],
        &[],
    ),
    // Names that change while a file is written.
    way("renamed-while-open", &["exec 3> f; echo a >&3; mv f g; echo b >&3"], &[("g", 1)]),
    way("removed-while-open", &["exec 3> f; echo a >&3; rm f; echo b >&3"], &[]),
    way(
        "replaced-while-open",
        &["exec 3> f; echo a >&3; echo new > g; mv g f; echo b >&3"],
        &[("f", 1)],
    ),
    way("removed-and-made-again", &["echo a > f; rm f; echo b > f"], &[("f", 1)]),
    way(
        "its-directory-renamed-while-open",
        &["mkdir d; exec 3> d/f; echo a >&3; mv d e; echo b >&3"],
        &[("e/f", 1)],
    ),
    way("written-through-its-second-name", &["echo a > f; ln f g; echo b >> g"], &[("f", 1)]),
    way(
        "the-second-name-in-a-later-run",
        &["echo a > f; ln f g", "echo b >> g; rm f"],
        &[("f", 1), ("g", 1)],
    ),
    // Processes.
    way(
        "parallel-writers",
        &["for i in 1 2 3 4 5 6; do (for j in 1 2 3 4; do echo $i$j >> f; done) & done; wait"],
        &[("f", 1)],
    ),
    way("a-child-that-is-waited-for", &["(sleep .2; echo x > f) & wait"], &[("f", 1)]),
    way(
        "a-child-that-outlives-the-command",
        &["exec 3> f; echo a >&3; (sleep .4; echo late >&3) & exit 0"],
        &[("f", 1)],
    ),
    way(
        "a-writer-that-is-killed",
        &[
            "python3 -c \"import os,signal; f=open('f','wb',0); f.write(b'before'); os.kill(os.getpid(),signal.SIGKILL)\" || true",
        ],
        &[("f", 1)],
    ),
    way(
        "a-writer-that-crashes-with-a-map",
        &[
            "truncate -s 4096 f; python3 -c \"import mmap,os,signal; m=mmap.mmap(os.open('f',os.O_RDWR),0); m[0:6]=b'before'; os.kill(os.getpid(),signal.SIGSEGV)\" || true",
        ],
        &[("f", 1)],
    ),
    way(
        "in-a-namespace-of-its-own",
        &[
            "python3 -c \"import os; p=os.fork(); p or (open('f','w').write('x'), os._exit(0)); os.waitpid(p,0)\"",
        ],
        &[("f", 1)],
    ),
    // What writes no bytes, and what is not a file.
    over("mode-alone", &["chmod 600 f"], &[]),
    over("attributes-alone", &["python3 -c \"import os; os.setxattr('f','user.note',b'x')\""], &[]),
    over("times-alone", &["python3 -c \"import os; os.utime('f',(1,1))\""], &[]),
    over(
        "set-id-is-refused",
        &["! chmod u+s f 2> /dev/null; ! chmod g+s f 2> /dev/null; test ! -u f"],
        &[],
    ),
    way("links-pipes-and-directories", &["ln -s nowhere s; mkfifo p; mkdir d"], &[]),
    way(
        "ignored-names",
        &[
            "echo x > a.tmp; echo x > .f.swp; echo x > f~; mkdir -p __pycache__; echo x > __pycache__/m.pyc",
        ],
        &[],
    ),
    way("an-ignored-name-that-is-given-up", &["echo x > f.tmp; mv f.tmp f"], &[("f", 1)]),
    way("a-name-that-becomes-ignored", &["echo x > f; mv f f.tmp"], &[]),
];
