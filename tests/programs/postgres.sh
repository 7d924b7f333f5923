#!/usr/bin/env bash
# A PostgreSQL cluster in this directory. Its socket is outside of it, since a socket's path is short.
set -euo pipefail
exec 3>&1 >&2
say() { echo "$*" >&3; }

PATH=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1):$PATH
export PGHOST=$TMPDIR PGUSER=test PGDATABASE=postgres PGDATA=$PWD/data
# Shared memory of parallel workers as a file that all of them map.
settings="-k $TMPDIR -c listen_addresses= -c shared_buffers=8MB -c dynamic_shared_memory_type=mmap"
running() { pg_ctl --wait --timeout 60 --log "$PWD/log" --options "$settings" "$@" || { cat log; exit 1; }; }
query() { psql --no-psqlrc --quiet --tuples-only --no-align --set ON_ERROR_STOP=1 --command "$1"; }

initdb --username test --auth trust --encoding UTF8 --no-locale --data-checksums --no-instructions
running start
pgbench --initialize --scale 1 --quiet
pgbench --client 4 --jobs 2 --time "$1" --no-vacuum
say "accounts $(query 'select count(*) from pgbench_accounts')"
# Every transaction changed each of three sums by the same amount.
say "balanced $(query 'select (select sum(abalance) from pgbench_accounts) = (select sum(tbalance) from pgbench_tellers)
    and (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history)
    and (select count(*) from pgbench_history) > 0')"
parallel='set parallel_setup_cost=0; set parallel_tuple_cost=0; set min_parallel_table_scan_size=0;'
say "parallel $(query "$parallel select sum(aid) from pgbench_accounts")"
query "$parallel explain (analyze, costs off, timing off, summary off) select sum(aid) from pgbench_accounts" >plan
grep -q 'Workers Launched: [1-9]' plan || { cat plan; exit 1; }
query "create tablespace away location '$(mkdir "$PWD/away" && echo "$PWD/away")'"
query 'create table moved tablespace away as select * from pgbench_accounts'
query 'create index on moved (bid, aid)'
query 'create extension amcheck'

# The postmaster is killed: recovery replays the log.
query 'update moved set abalance = aid'
pg_ctl stop --mode immediate --wait
running start
say "recovered $(query 'select sum(abalance) from moved')"
pg_amcheck --heapallindexed postgres
say "amcheck found nothing"
query 'vacuum full moved'
pg_ctl stop --mode fast --wait
pg_checksums --check | grep -i 'bad checksums'
pg_checksums --check | grep -q 'Bad checksums: *0$'
say "checksums are right"
running start
say "again $(query 'select count(*), sum(abalance) from moved')"
pg_ctl stop --mode fast --wait
