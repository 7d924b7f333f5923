#!/usr/bin/env bash
# A tree is copied into this directory and out of it again. With `acls`, also access control lists; with `inside`, all
# three trees are here.
set -euo pipefail
exec 3>&1 >&2
outside=$TMPDIR
kinds=-aHX
for option; do
    case $option in
    acls) kinds=-aHAX ;;
    inside) outside=$PWD ;;
    esac
done

/usr/bin/python3 -I sample_tree.py "$outside/source"
if [ "$kinds" = -aHAX ]; then
    setfacl -m u:4711:r,g:4712:rwx "$outside/source/d4/inner/1.bin"
    setfacl -d -m u:4711:rx "$outside/source/d5"
fi
different() { rsync "$kinds" --dry-run --itemize-changes --checksum --delete "$1/" "$2/"; }

rsync "$kinds" "$outside/source/" here/
{
    echo "into: $(different "$outside/source" here)"
    rsync "$kinds" here/ "$outside/back/"
    echo "out of: $(different here "$outside/back")"
    echo "there and back: $(different "$outside/source" "$outside/back")"
} >&3

# A second time, with less and more: only what differs is written, in place and beside.
echo changed >>"$outside/source/d0/inner/4095.bin"
touch --date=@1111111111 "$outside/source/d0/inner/4095.bin"
rm -r "$outside/source/d6"
mv "$outside/source/d7" "$outside/source/d7-renamed"
rsync "$kinds" --delete "$outside/source/" here/
echo "again: $(different "$outside/source" here)" >&3
truncate --size 1000 "$outside/source/sparse"
touch --date=@1111111111 "$outside/source/sparse"
rsync "$kinds" --inplace --delete "$outside/source/" here/
echo "in place: $(different "$outside/source" here)" >&3
rm -rf "$outside/source" "$outside/back"
