-- What versions were made from: the inputs of a run once, in the order in which they were opened, and for each version that the
-- run produced how many of them had been opened by then. The table from 0002 was never written.
DROP TABLE input;
CREATE TABLE input (
    run         BLOB    NOT NULL,                               -- UUIDv7, 16 bytes
    number      INTEGER NOT NULL,                               -- from 1, without a gap
    owner_uid   INTEGER NOT NULL,                               -- of the workspace
    mount       TEXT,                                           -- NULL: not one file; `reason` says what it stands for
    path        BLOB,                                           -- below the mount point
    host_path   BLOB,
    size        INTEGER,
    modified_at INTEGER,
    digest      BLOB,                                           -- BLAKE3, 32 bytes; NULL: unavailable
    reason      TEXT,                                           -- why it is unavailable
    opened_at   INTEGER NOT NULL,
    PRIMARY KEY (run, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX input_by_content ON input (digest, owner_uid, host_path) WHERE digest IS NOT NULL;

ALTER TABLE produced ADD COLUMN inputs_before INTEGER;          -- opened before the file was opened for writing; NULL: not known
ALTER TABLE produced ADD COLUMN inputs_until  INTEGER;          -- opened before the file was closed
