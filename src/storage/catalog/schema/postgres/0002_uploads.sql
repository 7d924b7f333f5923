-- Copies of contents in remote stores. A remote is a store's name, s3://bucket/prefix; a node is a state directory, by its UUID.

-- State directories: one row for each, and one more for each store that it sends to.
CREATE TABLE node (
    node    UUID    NOT NULL,
    remote  TEXT    NOT NULL COLLATE "C",                       -- empty in the row that is for each
    place   TEXT    NOT NULL COLLATE "C",                       -- for people
    seen_at BIGINT  NOT NULL,
    filled  BOOLEAN NOT NULL DEFAULT FALSE,                     -- what it had before it had this store is queued
    PRIMARY KEY (node, remote)
);

-- What has still to be sent, written in the transaction that made a version name the content.
CREATE TABLE upload (
    digest     BYTEA  NOT NULL,                                 -- BLAKE3, 32 bytes
    remote     TEXT   NOT NULL COLLATE "C",
    node       UUID   NOT NULL,                                 -- which has the content
    size       BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    next_at    BIGINT NOT NULL,
    attempts   BIGINT NOT NULL DEFAULT 0,
    state      TEXT   NOT NULL COLLATE "C" DEFAULT 'waiting',   -- waiting, uploading, failed, waiting-for-credentials, quarantined
    holder     UUID,                                            -- the daemon that is at it
    failed_at  BIGINT,
    last_error TEXT   COLLATE "C",
    PRIMARY KEY (digest, remote, node)
);
CREATE INDEX upload_due ON upload (node, remote, next_at) WHERE holder IS NULL;
CREATE INDEX upload_held ON upload (node, remote, holder) WHERE holder IS NOT NULL;

-- What a store has said that it keeps.
CREATE TABLE remote_copy (
    digest    BYTEA  NOT NULL,
    remote    TEXT   NOT NULL COLLATE "C",
    size      BIGINT NOT NULL,
    stored_at BIGINT NOT NULL,
    PRIMARY KEY (digest, remote)
);

-- What has to go from a store. As long as it stands here nobody sends the content there.
CREATE TABLE remote_removal (
    digest     BYTEA  NOT NULL,
    remote     TEXT   NOT NULL COLLATE "C",
    created_at BIGINT NOT NULL,
    next_at    BIGINT NOT NULL,                                 -- the end of the lease of whoever is at it
    PRIMARY KEY (remote, digest)
);
CREATE INDEX remote_removal_due ON remote_removal (remote, next_at);
