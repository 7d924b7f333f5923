# shellcheck shell=bash
# What the scripts need from the machine: found, or installed where that can be done, or named. To be sourced.
#
# The project's directory is $project, set by the script that sources this.
: "${project:?}"

say() { printf '%s\n' "$*"; }
title() { printf '\n── %s\n' "$*"; }
fail() {
    printf '\n%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# True when version $1 is at least $2; both are numbers with dots.
version_is_at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# Installs Debian packages, as root or through sudo.
install_packages() {
    local -a as_root=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || fail "missing: $*. There is no sudo here; run as root: apt-get install $*"
        as_root=(sudo)
    fi
    command -v apt-get >/dev/null || fail "missing: $*. There is no apt-get here; install what these Debian packages hold"
    say "installing $*"
    local log
    log=$(mktemp)
    if ! { "${as_root[@]}" apt-get update &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        fail "apt-get could not install $*; its last words are above"
    fi
    rm -f "$log"
}

# need_package PACKAGE COMMAND…: installs PACKAGE unless COMMAND succeeds.
need_package() {
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || install_packages "$package"
}

# Sandboxes see /usr, not what a version manager put in a home directory, so this interpreter counts.
python=/usr/bin/python3
need_python() {
    need_package python3 test -x "$python"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$python is $("$python" --version); the example needs Python 3.11 or newer (Debian 12 has it)"
}

# What tests/programs runs in workspaces.
need_programs() {
    need_package git sh -c 'command -v git'
    need_package rsync sh -c 'command -v rsync'
    need_package postgresql sh -c 'ls /usr/lib/postgresql/*/bin/postgres'
    # Python's own tests are a package of their own for each version of Python.
    local version
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    need_package "libpython$version-testsuite" test -e "/usr/lib/python$version/test/test_os.py"
    need_package nodejs sh -c 'command -v node'
    need_package npm sh -c 'command -v npm'
    need_npm_packages
}

# What tests/seal runs in sandboxes, besides.
need_sealed_programs() {
    need_package python3-numpy "$python" -c 'import numpy'
}

# npm's cache with the packages of tests/programs/npm, and the address that it is from: tests have no network.
need_npm_packages() {
    local packages=$project/tests/programs/npm cache=$project/target/tools/npm
    ! cmp -s "$packages/package-lock.json" "$cache/package-lock.json" || return 0
    say "fetching packages for npm (once, 27 MB)"
    rm -rf -- "$cache"
    mkdir -p "$cache/install"
    cp "$packages"/*.json "$cache/install"
    (
        cd "$cache/install"
        npm config get registry >"$cache/registry"
        npm ci --cache "$cache/cache" --ignore-scripts --no-audit --no-fund --no-update-notifier
    ) >"$cache/log" 2>&1 || {
        tail -n 20 "$cache/log" >&2
        fail "npm could not fetch the packages of $packages; its last words are above"
    }
    rm -rf -- "$cache/install"
    # Last: it says that the cache is whole.
    cp "$packages/package-lock.json" "$cache/package-lock.json"
}

# The Python package's own tools and tests: a virtual environment with what python/tests/requirements.txt names. Sets
# $python_tools to its programs.
need_python_tools() {
    local place=$project/target/tools/python wanted=$project/python/tests/requirements.txt
    python_tools=$place/bin
    need_python
    need_package python3-venv sh -c "$python -c 'import ensurepip'"
    ! cmp -s "$wanted" "$place/requirements.txt" || return 0
    say "fetching what the Python package is tested with (once, 100 MB)"
    rm -rf -- "$place"
    mkdir -p "${place%/*}"
    {
        "$python" -m venv "$place" && "$python_tools/pip" install --quiet --requirement "$wanted"
    } >"$place.log" 2>&1 || {
        tail -n 20 "$place.log" >&2
        fail "pip could not fetch what $wanted names; its last words are above"
    }
    # Last: it says that the environment is whole.
    cp "$wanted" "$place/requirements.txt"
}

need_compiler() {
    need_package build-essential sh -c 'command -v cc && echo "#include <stdio.h>" | cc -E -'
}

# A cargo at least as new as rust-toolchain.toml says. rustup, where it is, fetches exactly that one.
need_cargo() {
    local wanted found
    wanted=$(sed -n 's/^channel *= *"\(.*\)"/\1/p' "$project/rust-toolchain.toml")
    [ -n "$wanted" ] || fail "rust-toolchain.toml names no channel"
    if ! command -v cargo >/dev/null && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
        PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
    fi
    cargo_is_new_enough "$wanted" && return
    if ! command -v rustup >/dev/null && apt-cache show rustup >/dev/null 2>&1; then
        # rustup downloads over TLS.
        need_package ca-certificates test -s /etc/ssl/certs/ca-certificates.crt
        install_packages rustup
    fi
    if command -v rustup >/dev/null; then
        say "fetching Rust $wanted with rustup"
        rustup toolchain install "$wanted" --profile minimal --component clippy,rustfmt >/dev/null 2>&1 ||
            fail "rustup could not fetch Rust $wanted; try it by hand: rustup toolchain install $wanted"
        cargo_is_new_enough "$wanted" && return
    fi
    found=$(cd "$project" && cargo --version 2>/dev/null) || found="no cargo"
    fail "Rust $wanted or newer is needed and here is $found. Install rustup as the Rust project describes, then start this again"
}

cargo_is_new_enough() {
    local version
    version=$(cd "$project" && cargo --version 2>/dev/null) || return 1
    version=${version#cargo }
    version_is_at_least "${version%% *}" "$1"
}

# need_tool CRATE VERSION [LEVEL]: the program of that name, at least this version, on the path; else built from crates.io
# into target/tools/bin, which is put on the path. Without optimization, which is LEVEL 0 and the default, it is there in
# two minutes on one core.
need_tool() {
    local tool=$1 version=$2 level=${3:-0} tools=$project/target/tools found
    case $PATH in
    "$tools/bin":*) ;;
    *) export PATH=$tools/bin:$PATH ;;
    esac
    found=$("$tool" --version 2>/dev/null) || found="$tool 0"
    version_is_at_least "${found#"$tool" }" "$version" && return
    say "building $tool $version (once, about two minutes)"
    CARGO_PROFILE_RELEASE_OPT_LEVEL=$level CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=256 \
        CARGO_TARGET_DIR=$tools/build timeout 1200 \
        cargo install --quiet "$tool" --version "$version" --locked --root "$tools" ||
        fail "$tool could not be built; by hand: cargo install $tool --version $version --locked"
    rm -rf -- "$tools/build"
}

# The S3 server moto_server: what is on the path, else installed from PyPI into target/tools/moto. It does not tell its
# version, so one on the path is believed to be new enough; the tests say what they miss.
need_moto() {
    local version=5.2.1 place=$project/target/tools/moto found
    ! moto_server --help >/dev/null 2>&1 || return 0
    found=$("$place/bin/python" -c 'from importlib.metadata import version; print(version("moto"))' 2>/dev/null) || found=0
    ! version_is_at_least "$found" "$version" || return 0
    need_package python3-venv "$python" -c 'import ensurepip'
    say "installing moto $version (once)"
    rm -rf -- "$place"
    mkdir -p "$place"
    { "$python" -m venv "$place" && "$place/bin/pip" install --quiet --disable-pip-version-check "moto[server]==$version"; } \
        >"$place.log" 2>&1 || {
        tail -n 20 "$place.log" >&2
        fail "moto could not be installed; by hand: pip install 'moto[server]==$version'. The last words are above"
    }
}

# The S3 server garage, built from crates.io into target/tools/bin without what needs further services.
need_garage() {
    local version=2.5.0 tools=$project/target/tools found
    found=$(PATH=$tools/bin:$PATH garage --version 2>/dev/null) || found="garage 0"
    # As `garage cargo:2.5.0 [features: …]`, or v2.5.0 where somebody else built it.
    found=${found#garage }
    found=${found#cargo:}
    found=${found#v}
    ! version_is_at_least "${found%% *}" "$version" || return 0
    say "building garage $version (once, about nine minutes)"
    CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=$tools/build timeout 2400 \
        cargo install --quiet garage --version "$version" --debug --locked --no-default-features \
        --features bundled-libs,lmdb --root "$tools" ||
        fail "garage could not be built; by hand: cargo install garage --version $version --locked --no-default-features --features bundled-libs,lmdb"
    rm -rf -- "$tools/build"
}

# /dev/fuse, and for an ordinary user the right to make user namespaces. Nothing here can install these.
need_fuse() {
    [ -e /dev/fuse ] || fail "there is no /dev/fuse, so nothing can be mounted. On a host: modprobe fuse, as root. \
In a container: start it with --device /dev/fuse"
    [ -c /dev/fuse ] || fail "/dev/fuse is not a character device; it must be node 10:229"
    # Opening it is what counts: a container may show the node and forbid its use.
    (exec 3<>/dev/fuse) 2>/dev/null ||
        fail "/dev/fuse cannot be opened by $(id -un 2>/dev/null || id -u). As root either run this, or allow all users: chmod 0666 /dev/fuse"
    if [ "$(id -u)" != 0 ]; then
        unshare --user --map-root-user --mount --pid --fork true 2>/dev/null || fail "$(no_user_namespaces)"
    fi
}

no_user_namespaces() {
    local setting
    printf 'an ordinary user needs user namespaces, and making one is refused here.'
    for setting in kernel/unprivileged_userns_clone=1 kernel/apparmor_restrict_unprivileged_userns=0 \
        user/max_user_namespaces=15000; do
        local file=/proc/sys/${setting%=*} wanted=${setting#*=}
        if [ -r "$file" ] && { [ "$(cat "$file")" = 0 ] || [ "$wanted" = 0 ]; } && [ "$(cat "$file")" != "$wanted" ]; then
            printf ' As root: sysctl -w %s=%s.' "$(tr / . <<<"${setting%=*}")" "$wanted"
        fi
    done
    printf ' Or run this as root.'
}

# Lines of this process's mount table that name the directory $1.
mounts_below() {
    local escaped
    # The kernel writes these characters as octal escapes (proc(5), mounts; fs/proc_namespace.c).
    escaped=$(printf '%s' "$1" | sed -e 's/\\/\\134/g' -e 's/ /\\040/g' -e 's/\t/\\011/g')
    grep -F -- " $escaped" /proc/self/mounts || true
}
