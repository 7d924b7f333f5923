#!/usr/bin/env bash
# Packages are installed from a copy of the cache in $LENT, and used; with `twice`, they are replaced by the same.
set -euo pipefail
exec 3>&1 >&2
cp -r "$LENT/cache" "$TMPDIR/npm-cache"
install() {
    npm ci --offline --ignore-scripts --cache "$TMPDIR/npm-cache" --registry "$(cat "$LENT/registry")" --no-audit --no-fund --no-update-notifier
}
install
mkdir src
echo 'export const answer = (x: number): number => x + 1; const unused = 1; console.log(answer(41));' >src/main.ts
npx --no-install tsc --strict --module commonjs --target es2020 --outDir out src/main.ts
node out/main.js >&3
npx --no-install eslint --no-config-lookup --rule '{"no-unused-vars": "error"}' out >report 2>&1 && exit 1
grep -o "'unused' is assigned.*" report >&3
rm report
[ "${1:-}" != twice ] || install
npm ls --all --parseable | wc -l >&3
