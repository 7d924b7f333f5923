#!/usr/bin/env bash
# A life of a repository. What it prints to standard output must be the same everywhere.
set -euo pipefail
exec 3>&1 >&2
say() { echo "$*" >&3; }

export GIT_CONFIG_GLOBAL=$PWD/gitconfig GIT_CONFIG_NOSYSTEM=1
export GIT_AUTHOR_NAME=Author GIT_AUTHOR_EMAIL=author@example.org GIT_AUTHOR_DATE='1700000000 +0000'
export GIT_COMMITTER_NAME=Author GIT_COMMITTER_EMAIL=author@example.org GIT_COMMITTER_DATE='1700000000 +0000'
git config --global init.defaultBranch main
# One thread, so that the packs are the same bytes; nothing in the background.
git config --global pack.threads 1
git config --global gc.auto 0
git config --global maintenance.auto false

# write SEED: files and directories, and some changes of what is there.
write() {
    /usr/bin/python3 -I - "$1" <<'PYTHON'
import os, random, sys
noise = random.Random(int(sys.argv[1]))
for number in range(40):
    directory = f"src/{number % 7}/{number % 3}"
    os.makedirs(directory, exist_ok=True)
    with open(f"{directory}/file{number}.txt", "a") as file:
        for _ in range(noise.randrange(1, 30)):
            file.write(f"{noise.random()} line of {sys.argv[1]}\n")
PYTHON
}
commit() {
    write "$1"
    git add --all
    git commit --quiet --message "change $1"
}

git init --quiet one
cd one
for seed in 1 2 3 4 5 6; do commit "$seed"; done
# More than any buffer, and of no use to compress.
/usr/bin/python3 -I -c 'import random; open("big", "wb").write(random.Random(1).randbytes(6 << 20))'
ln -s src/0 link
printf '#!/bin/sh\n' >run
chmod 755 run
git add --all
git commit --quiet --message big

git checkout --quiet -b side HEAD~3
mkdir side
for number in 1 2 3; do
    echo "side $number" >"side/$number"
    git add side
    git commit --quiet --message "side $number"
done
git rebase --quiet main
git mv src/1 moved
git commit --quiet --message moved
git tag v1
say "head $(git rev-parse HEAD), $(git rev-list --count HEAD) commits"
git checkout --quiet main
git merge --quiet --no-ff --message merged side
say "merged $(git rev-parse HEAD) tree $(git rev-parse 'HEAD^{tree}')"

git worktree add --quiet ../tree v1
(cd ../tree && say "worktree $(git status --porcelain | wc -l) changes, $(git ls-files | wc -l) files")
git stash list
echo more >>run
git stash --quiet
git stash pop --quiet
git checkout --quiet run

cd ..
git clone --quiet one linked
git clone --quiet --no-hardlinks one copied
(cd linked && commit 7 && git push --quiet origin HEAD:refs/heads/pushed)
git -C copied fetch --quiet
say "fetched $(git -C copied rev-parse origin/pushed)"

git -C one gc --quiet --aggressive --prune=now
for repository in one linked copied; do
    git -C "$repository" fsck --full --strict
    say "$repository: $(git -C "$repository" status --porcelain | wc -l) changes"
done
say "packs: $(cd one/.git/objects/pack && echo pack-*.pack)"

# The index has what lstat(2) said of each file. It must say the same when the kernel has to ask again; diff-files
# compares without reading contents. A file that changed in the second of the index is looked into by git: wait for it to pass.
for repository in one linked copied; do git -C "$repository" update-index --refresh; done
sleep 1.2
for repository in one linked copied tree; do
    say "$repository: $(git -C "$repository" diff-files --name-only | wc -l) stale"
done
