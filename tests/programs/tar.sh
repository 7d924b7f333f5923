#!/usr/bin/env bash
# A tree is packed here and unpacked here. With `acls`, also access control lists.
set -euo pipefail
exec 3>&1 >&2
kinds=(--xattrs)
/usr/bin/python3 -I sample_tree.py source
if [ "${1:-}" = acls ]; then
    kinds+=(--acls)
    setfacl -m u:4711:r,g:4712:rwx source/d4/inner/1.bin
    setfacl -d -m u:4711:rx source/d5
    # A list changes no content, but the time of a change; the one that matters is set again.
    touch --date=@1234567890 source/d4/inner/1.bin source/d5
fi
# The time of reading would differ, and the number of the process in names that are made up.
pack=(tar --create --sort=name --numeric-owner "${kinds[@]}" --format=posix
    --pax-option='exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime')
"${pack[@]}" --file packed.tar source
"${pack[@]}" --sparse --file sparse.tar source
sha256sum packed.tar >&3
for archive in packed sparse; do
    mkdir "unpacked-$archive"
    unpack=("${kinds[@]}" --file "$archive.tar" --directory "unpacked-$archive")
    tar --extract --same-permissions "${unpack[@]}"
    tar --compare "${unpack[@]}"
    echo "$archive: unpacked is what was packed" >&3
done
[ "$(stat -c %b unpacked-sparse/source/sparse)" -lt 100 ]
gzip --no-name --keep packed.tar
zcat packed.tar.gz | cmp - packed.tar
find unpacked-* -links +1 -printf '%n %p\n' | sort >&3
