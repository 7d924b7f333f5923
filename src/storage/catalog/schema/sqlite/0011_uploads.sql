-- Copies of contents in remote stores. Times are microseconds since 1970 UTC. A remote is a store's name, s3://bucket/prefix; a
-- node is a state directory, by its UUID of 16 bytes.

-- State directories that send contents, one row for each store that they send to.
CREATE TABLE node (
    node    BLOB    NOT NULL,
    remote  TEXT    NOT NULL,
    place   TEXT    NOT NULL,                                   -- for people
    seen_at INTEGER NOT NULL,
    filled  INTEGER NOT NULL DEFAULT 0,                         -- what it had before it had this store is queued
    PRIMARY KEY (node, remote)
) STRICT, WITHOUT ROWID;

-- What has still to be sent, written in the transaction that made a version name the content.
CREATE TABLE upload (
    digest     BLOB    NOT NULL,                                -- BLAKE3, 32 bytes
    remote     TEXT    NOT NULL,
    node       BLOB    NOT NULL,                                -- which has the content
    size       INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    next_at    INTEGER NOT NULL,
    attempts   INTEGER NOT NULL DEFAULT 0,
    state      TEXT    NOT NULL DEFAULT 'waiting',              -- waiting, uploading, failed, waiting-for-credentials, quarantined
    holder     BLOB,                                            -- the daemon that is at it
    failed_at  INTEGER,
    last_error TEXT,
    PRIMARY KEY (digest, remote, node)
) STRICT, WITHOUT ROWID;
CREATE INDEX upload_due ON upload (node, remote, next_at) WHERE holder IS NULL;
CREATE INDEX upload_held ON upload (node, remote, holder) WHERE holder IS NOT NULL;

-- What a store has said that it keeps.
CREATE TABLE remote_copy (
    digest    BLOB    NOT NULL,
    remote    TEXT    NOT NULL,
    size      INTEGER NOT NULL,
    stored_at INTEGER NOT NULL,
    PRIMARY KEY (digest, remote)
) STRICT, WITHOUT ROWID;

-- What has to go from a store. As long as it stands here nobody sends the content there.
CREATE TABLE remote_removal (
    digest     BLOB    NOT NULL,
    remote     TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    next_at    INTEGER NOT NULL,                                -- the end of the lease of whoever is at it
    PRIMARY KEY (remote, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX remote_removal_due ON remote_removal (remote, next_at);
