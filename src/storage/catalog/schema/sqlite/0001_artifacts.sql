-- Artifacts and their versions. Times are microseconds since 1970 UTC. Paths are BLOBs: names need not be UTF-8.

-- One identity: the file of one owner at one host path.
CREATE TABLE artifact (
    pk         INTEGER PRIMARY KEY,
    id         BLOB    NOT NULL UNIQUE,          -- UUIDv7, 16 bytes
    owner_uid  INTEGER NOT NULL,
    host_path  BLOB    NOT NULL,
    latest     INTEGER NOT NULL,                 -- highest number not DELETED, or the highest
    created_at INTEGER NOT NULL,
    UNIQUE (owner_uid, host_path)
) STRICT;

CREATE TABLE version (
    pk           INTEGER PRIMARY KEY AUTOINCREMENT, -- never reused: cursors of lists point between two of them
    artifact     INTEGER NOT NULL REFERENCES artifact (pk),
    number       INTEGER NOT NULL,
    type         TEXT    NOT NULL,
    state        TEXT    NOT NULL,
    size         INTEGER NOT NULL,
    digest       BLOB    NOT NULL,               -- BLAKE3, 32 bytes
    content_kept INTEGER NOT NULL,
    closes       INTEGER NOT NULL,
    workspace    TEXT    NOT NULL,
    mount        TEXT    NOT NULL,
    path         BLOB    NOT NULL,               -- below the mount point
    run          BLOB,                           -- UUIDv7, 16 bytes; NULL: written outside every run
    graph_id     TEXT,
    node_id      TEXT,
    metadata     TEXT    NOT NULL DEFAULT '{}',
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    UNIQUE (artifact, number)
) STRICT;

-- The digest is how garbage collection asks whether a content is still named.
CREATE INDEX version_by_digest ON version (digest);
CREATE INDEX version_by_graph ON version (graph_id) WHERE graph_id IS NOT NULL;
CREATE INDEX version_by_workspace ON version (workspace);

-- Which runs produced a version: the one that made it, and those that wrote the same bytes again.
CREATE TABLE produced (
    run     BLOB    NOT NULL,
    version INTEGER NOT NULL REFERENCES version (pk),
    PRIMARY KEY (run, version)
) STRICT, WITHOUT ROWID;
