-- The catalog: artifacts, their versions, what is said of them and what happened to them. Made in the schema of the settings.
--
-- Times are microseconds since 1970 UTC. Paths are bytes: names need not be UTF-8. Texts that users write stand escaped
-- (src/storage/catalog/postgres/text.rs) and are compared byte by byte.

-- Given out while the one writer writes, so that they count up in the order in which rows become visible.
CREATE SEQUENCE version_pk;
CREATE SEQUENCE event_seq;

-- One identity: the file of one owner at one host path.
CREATE TABLE artifact (
    pk         BIGINT PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    id         UUID   NOT NULL UNIQUE,                          -- UUIDv7
    owner_uid  BIGINT NOT NULL,
    host_path  BYTEA  NOT NULL,
    latest     BIGINT NOT NULL,                                 -- highest number not DELETED, or the highest
    created_at BIGINT NOT NULL,
    -- What the file looked like when it was registered last; NULL: not noted.
    seen_inode BIGINT,                                          -- all 64 bits are the number's
    seen_size  BIGINT,
    seen_mtime BIGINT,                                          -- nanoseconds since 1970 UTC
    seen_ctime BIGINT
);
-- A B-tree takes no entry above a third of a page, and a path may have 4,096 bytes.
CREATE UNIQUE INDEX artifact_by_path ON artifact (owner_uid, sha256(host_path));

CREATE TABLE version (
    pk             BIGINT  PRIMARY KEY DEFAULT nextval('version_pk'), -- never reused: cursors of lists point between two of them
    artifact       BIGINT  NOT NULL REFERENCES artifact (pk),
    owner_uid      BIGINT  NOT NULL,                            -- the artifact's
    number         BIGINT  NOT NULL,
    parent         BIGINT,                                      -- number of the version it was made from
    origin         TEXT    NOT NULL COLLATE "C",                -- `observed` by the file system or `declared` over the API
    type           TEXT    NOT NULL COLLATE "C",
    suspected      TEXT    COLLATE "C",                         -- what the bytes speak for, where the name says otherwise
    mime           TEXT    COLLATE "C",
    state          TEXT    NOT NULL COLLATE "C",
    held           BOOLEAN NOT NULL DEFAULT FALSE,              -- registered as CREATING by somebody, until they say READY
    pinned         BOOLEAN NOT NULL DEFAULT FALSE,
    quarantined    BOOLEAN NOT NULL DEFAULT FALSE,              -- holds a secret: for its owner's eyes only
    size           BIGINT  NOT NULL,
    digest         BYTEA,                                       -- BLAKE3, 32 bytes; NULL: no content yet
    content_kept   BOOLEAN NOT NULL,
    closes         BIGINT  NOT NULL,
    workspace      TEXT    COLLATE "C",
    mount          TEXT    COLLATE "C",                         -- NULL: not below a mount point
    path           BYTEA,                                       -- below the mount point
    run            UUID,                                        -- NULL: written outside every run
    graph_id       TEXT    COLLATE "C",
    node_id        TEXT    COLLATE "C",
    writer_pid     BIGINT,                                      -- who opened it last for writing; NULL: not known
    writer_uid     BIGINT,
    writer_command BYTEA,                                       -- arguments separated by NUL, cut to a bound; NULL: not known
    metadata       JSONB   NOT NULL,                            -- what expressions look at
    metadata_text  TEXT    COLLATE "C",                         -- as it was written, where JSONB cannot give that back
    secret_scan    TEXT    COLLATE "C",                         -- done, nothing-to-find, unavailable; NULL: no content yet
    created_at     BIGINT  NOT NULL,                            -- never changes
    updated_at     BIGINT  NOT NULL,
    deleted_at     BIGINT,                                      -- start of the undo window; NULL while not DELETED
    swept_at       BIGINT,                                      -- its content was given up for ever
    archived_at    BIGINT,                                      -- since when it is ARCHIVED
    lost_at        BIGINT,                                      -- its content was kept, and is gone or damaged for good
    UNIQUE (artifact, number)
);

-- Lists: newest first among those of one state, for each way in which a list is narrowed.
CREATE INDEX version_by_state ON version (state, created_at, pk);
CREATE INDEX version_by_owner ON version (owner_uid, state, created_at, pk);
CREATE INDEX version_by_type ON version (type, state, created_at, pk);
-- A B-tree takes no entry above a third of a page; nothing bounds a graph's id.
CREATE INDEX version_by_graph ON version (left(graph_id, 200), state, created_at, pk) WHERE graph_id IS NOT NULL;
CREATE INDEX version_by_workspace ON version (workspace, state, created_at, pk) WHERE workspace IS NOT NULL;
CREATE INDEX version_by_updated ON version (state, updated_at, pk);
-- Expressions that ask for a value of the metadata.
CREATE INDEX version_by_metadata ON version USING gin (metadata jsonb_path_ops);
-- Who names a content; which deletions are over.
CREATE INDEX version_by_digest ON version (digest) WHERE digest IS NOT NULL;
CREATE INDEX version_deleted ON version (deleted_at) WHERE deleted_at IS NOT NULL AND swept_at IS NULL;
CREATE INDEX version_lost ON version (lost_at) WHERE lost_at IS NOT NULL;
-- Artifacts as files: one range of an index for each directory, in the order in which it is listed. A path may have 4,096 bytes,
-- of which the index keeps the first ones.
CREATE INDEX version_by_type_and_place ON version (workspace, type, mount, substring(path FROM 1 FOR 512))
    WHERE mount IS NOT NULL;
CREATE INDEX version_by_graph_and_place ON version (workspace, left(graph_id, 200), mount, substring(path FROM 1 FOR 512))
    WHERE mount IS NOT NULL AND graph_id IS NOT NULL;
CREATE INDEX version_by_workspace_and_artifact ON version (workspace, artifact, number) WHERE workspace IS NOT NULL;

-- Which runs produced a version: the one that made it, and those that wrote the same bytes again.
CREATE TABLE produced (
    run           UUID   NOT NULL,
    created_at    BIGINT NOT NULL,                              -- the version's
    version       BIGINT NOT NULL REFERENCES version (pk),
    inputs_before BIGINT,                                       -- opened before the file was opened for writing; NULL: not known
    inputs_until  BIGINT,                                       -- opened before the file was closed
    PRIMARY KEY (run, created_at, version)
);
CREATE INDEX produced_by_version ON produced (version);

-- Names that users gave, unique among those of one owner.
CREATE TABLE alias (
    owner_uid BIGINT NOT NULL,
    name      TEXT   NOT NULL COLLATE "C",
    artifact  BIGINT NOT NULL REFERENCES artifact (pk),
    PRIMARY KEY (owner_uid, name)
);
CREATE INDEX alias_by_artifact ON alias (artifact);
CREATE INDEX alias_by_name ON alias (name);

-- A label points to one version of its artifact and can move. A tag is a word on a version.
CREATE TABLE label (
    artifact BIGINT NOT NULL REFERENCES artifact (pk),
    name     TEXT   NOT NULL COLLATE "C",
    version  BIGINT NOT NULL REFERENCES version (pk),
    PRIMARY KEY (artifact, name)
);
CREATE INDEX label_by_version ON label (version);
CREATE INDEX label_by_name ON label (name, version);

CREATE TABLE tag (
    version BIGINT NOT NULL REFERENCES version (pk),
    name    TEXT   NOT NULL COLLATE "C",
    PRIMARY KEY (version, name)
);
CREATE INDEX tag_by_name ON tag (name, version);

-- Secrets of the workspace that were seen in a content: which, and how they were written down. Never a value.
CREATE TABLE finding (
    version  BIGINT NOT NULL REFERENCES version (pk),
    secret   TEXT   NOT NULL COLLATE "C",
    encoding TEXT   NOT NULL COLLATE "C",
    position BIGINT NOT NULL,                                   -- of its first byte
    PRIMARY KEY (version, secret, encoding)
);

-- What happened, in order. Rows are never changed.
CREATE TABLE event (
    seq       BIGINT PRIMARY KEY DEFAULT nextval('event_seq'),
    at        BIGINT NOT NULL,
    owner_uid BIGINT NOT NULL,
    artifact  UUID   NOT NULL,
    version   BIGINT,                                           -- number; NULL: the artifact as a whole
    kind      TEXT   NOT NULL COLLATE "C",
    actor     TEXT   NOT NULL COLLATE "C",                      -- `uid:N`, `run:UUID` or `belljar`
    detail    TEXT   NOT NULL COLLATE "C"                       -- JSON
);
CREATE INDEX event_by_artifact ON event (artifact, seq);
CREATE INDEX event_by_owner ON event (owner_uid, seq);

-- Contents whose place in the store has to be looked at again.
CREATE TABLE placement (
    digest BYTEA  PRIMARY KEY,                                  -- BLAKE3, 32 bytes
    turn   BIGINT NOT NULL DEFAULT 1                            -- counts the reasons: only who saw the last one may remove the row
);

-- What runs had read, in the order in which it was opened.
CREATE TABLE input (
    run         UUID   NOT NULL,
    number      BIGINT NOT NULL,                                -- from 1, without a gap
    owner_uid   BIGINT NOT NULL,                                -- of the workspace
    mount       TEXT   COLLATE "C",                             -- NULL: not one file; `reason` says what it stands for
    path        BYTEA,                                          -- below the mount point
    host_path   BYTEA,
    size        BIGINT,
    modified_at BIGINT,
    digest      BYTEA,                                          -- BLAKE3, 32 bytes; NULL: unavailable
    reason      TEXT   COLLATE "C",                             -- why it is unavailable
    opened_at   BIGINT NOT NULL,
    PRIMARY KEY (run, number)
);
CREATE INDEX input_by_content ON input (digest, owner_uid) WHERE digest IS NOT NULL;

-- Clean-up plans: what would go and why, decided once and applied as it is.
CREATE TABLE plan (
    pk         BIGINT  PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    id         UUID    NOT NULL UNIQUE,
    owner_uid  BIGINT  NOT NULL,
    policy     TEXT    COLLATE "C",                             -- NULL: somebody asked for it
    criteria   TEXT    NOT NULL COLLATE "C",                    -- JSON
    state      TEXT    NOT NULL COLLATE "C",                    -- PLANNED, APPLYING, APPLIED
    more       BOOLEAN NOT NULL,                                -- more would go than one plan may name
    bytes      BIGINT  NOT NULL,                                -- of the distinct contents
    created_at BIGINT  NOT NULL,
    applied_at BIGINT
);
CREATE INDEX plan_by_owner ON plan (owner_uid, pk);
CREATE INDEX plan_applying ON plan (pk) WHERE state = 'APPLYING';

CREATE TABLE plan_item (
    plan     BIGINT NOT NULL REFERENCES plan (pk),
    position BIGINT NOT NULL,
    version  BIGINT NOT NULL REFERENCES version (pk),
    action   TEXT   NOT NULL COLLATE "C",                       -- archive, delete
    reason   TEXT   NOT NULL COLLATE "C",
    seen     TEXT   NOT NULL COLLATE "C",                       -- JSON: what must still be so
    outcome  TEXT   COLLATE "C",                                -- NULL until applied; done, skipped
    why      TEXT   COLLATE "C",                                -- why it was skipped
    PRIMARY KEY (plan, position)
);
CREATE INDEX plan_item_open ON plan_item (plan, position) WHERE outcome IS NULL;

CREATE TABLE policy (
    pk          BIGINT PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    owner_uid   BIGINT,                                         -- NULL: of the configuration, for each user by themselves
    name        TEXT   NOT NULL COLLATE "C",
    criteria    TEXT   NOT NULL COLLATE "C",                    -- JSON
    every       BIGINT NOT NULL,                                -- milliseconds
    next_at     BIGINT NOT NULL,
    holder      UUID,                                           -- the daemon that is at it
    lease_until BIGINT,
    runs        BIGINT NOT NULL DEFAULT 0,
    last        TEXT   COLLATE "C"                              -- JSON; NULL before the first run
);
CREATE UNIQUE INDEX policy_by_name ON policy (coalesce(owner_uid, -1), name);
