-- The time of a version beside its key wherever a tag, a label or a run leads to it, so that lists of them come newest first
-- out of the index instead of being fetched whole and sorted. A version's `created_at` never changes.

CREATE TABLE new_produced (
    run           BLOB    NOT NULL,
    created_at    INTEGER NOT NULL,                             -- the version's
    version       INTEGER NOT NULL REFERENCES version (pk),
    inputs_before INTEGER,                                      -- opened before the file was opened for writing; NULL: not known
    inputs_until  INTEGER,                                      -- opened before the file was closed
    PRIMARY KEY (run, created_at, version)
) STRICT, WITHOUT ROWID;
INSERT INTO new_produced
    SELECT p.run, v.created_at, p.version, p.inputs_before, p.inputs_until FROM produced p JOIN version v ON v.pk = p.version;
DROP TABLE produced;
ALTER TABLE new_produced RENAME TO produced;
CREATE INDEX produced_by_version ON produced (version);

CREATE TABLE new_label (
    artifact   INTEGER NOT NULL REFERENCES artifact (pk),
    name       TEXT    NOT NULL,
    version    INTEGER NOT NULL REFERENCES version (pk),
    created_at INTEGER NOT NULL,                                -- the version's
    PRIMARY KEY (artifact, name)
) STRICT, WITHOUT ROWID;
INSERT INTO new_label
    SELECT l.artifact, l.name, l.version, v.created_at FROM label l JOIN version v ON v.pk = l.version;
DROP TABLE label;
ALTER TABLE new_label RENAME TO label;
CREATE INDEX label_by_version ON label (version);
CREATE INDEX label_by_name ON label (name, created_at, version);

CREATE TABLE new_tag (
    version    INTEGER NOT NULL REFERENCES version (pk),
    name       TEXT    NOT NULL,
    created_at INTEGER NOT NULL,                                -- the version's
    PRIMARY KEY (version, name)
) STRICT, WITHOUT ROWID;
INSERT INTO new_tag SELECT t.version, t.name, v.created_at FROM tag t JOIN version v ON v.pk = t.version;
DROP TABLE tag;
ALTER TABLE new_tag RENAME TO tag;
CREATE INDEX tag_by_name ON tag (name, created_at, version);
