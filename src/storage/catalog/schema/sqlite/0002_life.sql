-- The whole life of an artifact: names, who made it and from what, what was found in it, what happened to it, and its end.

-- Made anew, as SQLite cannot make a column nullable: what is declared need not lie in a workspace, nor have a content yet.
CREATE TABLE new_version (
    pk             INTEGER PRIMARY KEY AUTOINCREMENT, -- never reused: cursors of lists point between two of them
    artifact       INTEGER NOT NULL REFERENCES artifact (pk),
    owner_uid      INTEGER NOT NULL,               -- the artifact's
    number         INTEGER NOT NULL,
    parent         INTEGER,                        -- number of the version it was made from
    origin         TEXT    NOT NULL,               -- `observed` by the file system or `declared` over the API
    type           TEXT    NOT NULL,
    suspected      TEXT,                           -- what the bytes speak for, where the name says otherwise
    mime           TEXT,
    state          TEXT    NOT NULL,
    held           INTEGER NOT NULL DEFAULT 0,     -- registered as CREATING by somebody, until they say READY
    pinned         INTEGER NOT NULL DEFAULT 0,
    quarantined    INTEGER NOT NULL DEFAULT 0,     -- holds a secret: for its owner's eyes only
    size           INTEGER NOT NULL,
    digest         BLOB,                           -- BLAKE3, 32 bytes; NULL: no content yet
    content_kept   INTEGER NOT NULL,
    closes         INTEGER NOT NULL,
    workspace      TEXT,
    mount          TEXT,                           -- NULL: not below a mount point
    path           BLOB,                           -- below the mount point
    run            BLOB,                           -- UUIDv7, 16 bytes; NULL: written outside every run
    graph_id       TEXT,
    node_id        TEXT,
    writer_pid     INTEGER,                        -- who opened it last for writing; NULL: not known
    writer_uid     INTEGER,
    writer_command BLOB,                           -- arguments separated by NUL, cut to a bound; NULL: not known
    metadata       TEXT    NOT NULL DEFAULT '{}',
    created_at     INTEGER NOT NULL,
    updated_at     INTEGER NOT NULL,
    deleted_at     INTEGER,                        -- start of the undo window; NULL while not DELETED
    swept_at       INTEGER,                        -- its content was given up for ever
    UNIQUE (artifact, number)
) STRICT;

INSERT INTO new_version (pk, artifact, owner_uid, number, origin, type, state, size, digest, content_kept, closes, workspace,
        mount, path, run, graph_id, node_id, metadata, created_at, updated_at, deleted_at)
    SELECT v.pk, v.artifact, a.owner_uid, v.number, 'observed', v.type, v.state, v.size, v.digest, v.content_kept, v.closes,
        v.workspace, v.mount, v.path, v.run, v.graph_id, v.node_id, v.metadata, v.created_at, v.updated_at,
        CASE v.state WHEN 'DELETED' THEN v.updated_at END
    FROM version v JOIN artifact a ON a.pk = v.artifact;

CREATE TABLE new_produced (
    run     BLOB    NOT NULL,
    version INTEGER NOT NULL REFERENCES new_version (pk),
    PRIMARY KEY (run, version)
) STRICT, WITHOUT ROWID;
INSERT INTO new_produced SELECT run, version FROM produced;

DROP TABLE produced;
DROP TABLE version;
ALTER TABLE new_version RENAME TO version;
ALTER TABLE new_produced RENAME TO produced;

-- The digest is how garbage collection asks whether a content is still named.
CREATE INDEX version_by_digest ON version (digest) WHERE digest IS NOT NULL;
CREATE INDEX version_by_graph ON version (graph_id, state, pk) WHERE graph_id IS NOT NULL;
CREATE INDEX version_by_workspace ON version (workspace, state, pk) WHERE workspace IS NOT NULL;
CREATE INDEX version_by_state ON version (state, pk);
CREATE INDEX version_by_type ON version (type, state, pk);
CREATE INDEX version_by_owner ON version (owner_uid, state, pk);
CREATE INDEX version_by_created ON version (created_at);
CREATE INDEX version_by_updated ON version (updated_at);
CREATE INDEX version_deleted ON version (deleted_at) WHERE deleted_at IS NOT NULL;
CREATE INDEX produced_by_version ON produced (version);

-- Names that users gave, unique among those of one owner.
CREATE TABLE alias (
    owner_uid INTEGER NOT NULL,
    name      TEXT    NOT NULL,
    artifact  INTEGER NOT NULL REFERENCES artifact (pk),
    PRIMARY KEY (owner_uid, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX alias_by_artifact ON alias (artifact);

-- A label points to one version of its artifact and can move. A tag is a word on a version.
CREATE TABLE label (
    artifact INTEGER NOT NULL REFERENCES artifact (pk),
    name     TEXT    NOT NULL,
    version  INTEGER NOT NULL REFERENCES version (pk),
    PRIMARY KEY (artifact, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX label_by_version ON label (version);
CREATE INDEX label_by_name ON label (name, version);

CREATE TABLE tag (
    version INTEGER NOT NULL REFERENCES version (pk),
    name    TEXT    NOT NULL,
    PRIMARY KEY (version, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX tag_by_name ON tag (name, version);

-- Secrets of the workspace that were seen in a content: which, and how they were written down. Never a value.
CREATE TABLE finding (
    version  INTEGER NOT NULL REFERENCES version (pk),
    secret   TEXT    NOT NULL,
    encoding TEXT    NOT NULL,
    position INTEGER NOT NULL,                                  -- of its first byte
    PRIMARY KEY (version, secret, encoding)
) STRICT, WITHOUT ROWID;

-- What happened, in order. Rows are never changed.
CREATE TABLE event (
    seq       INTEGER PRIMARY KEY AUTOINCREMENT,
    at        INTEGER NOT NULL,
    owner_uid INTEGER NOT NULL,
    artifact  BLOB    NOT NULL,                                 -- UUIDv7, 16 bytes
    version   INTEGER,                                          -- number; NULL: the artifact as a whole
    kind      TEXT    NOT NULL,
    actor     TEXT    NOT NULL,                                 -- `uid:N`, `run:UUID` or `belljar`
    detail    TEXT    NOT NULL DEFAULT '{}'
) STRICT;
CREATE INDEX event_by_artifact ON event (artifact, seq);
CREATE INDEX event_by_owner ON event (owner_uid, seq);

-- What runs had read before they wrote.
CREATE TABLE input (
    pk        INTEGER PRIMARY KEY,
    run       BLOB    NOT NULL,
    mount     TEXT    NOT NULL,
    path      BLOB    NOT NULL,                                 -- below the mount point
    host_path BLOB    NOT NULL,
    size      INTEGER,
    digest    BLOB,                                             -- NULL: unavailable
    reason    TEXT,                                             -- why it is unavailable
    opened_at INTEGER NOT NULL
) STRICT;
CREATE INDEX input_by_run ON input (run, opened_at);
CREATE INDEX input_by_digest ON input (digest) WHERE digest IS NOT NULL;

-- Clean-up plans: what would go and why, decided once and applied as it is.
CREATE TABLE plan (
    id         BLOB    PRIMARY KEY,                             -- UUIDv7, 16 bytes
    owner_uid  INTEGER NOT NULL,
    criteria   TEXT    NOT NULL,                                -- JSON
    state      TEXT    NOT NULL,                                -- PLANNED, APPLYING, APPLIED
    created_at INTEGER NOT NULL,
    applied_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE plan_item (
    plan    BLOB    NOT NULL REFERENCES plan (id),
    version INTEGER NOT NULL REFERENCES version (pk),
    action  TEXT    NOT NULL,                                   -- archive, delete
    reason  TEXT    NOT NULL,
    size    INTEGER NOT NULL,
    outcome TEXT,                                               -- NULL until applied
    PRIMARY KEY (plan, version)
) STRICT, WITHOUT ROWID;
