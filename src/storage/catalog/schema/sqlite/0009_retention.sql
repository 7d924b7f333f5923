-- Clean-up and trust. Times are microseconds since 1970 UTC.

-- Start of the stay in the archive tier, which an amendment does not begin anew. NULL: not ARCHIVED.
ALTER TABLE version ADD COLUMN archived_at INTEGER;
UPDATE version SET archived_at = updated_at WHERE state = 'ARCHIVED';
-- Its content was kept, and was found to be gone or damaged for good. NULL: it is as it was taken.
ALTER TABLE version ADD COLUMN lost_at INTEGER;

-- Made anew: nothing wrote to them before.
DROP TABLE plan_item;
DROP TABLE plan;

-- Clean-up plans: what would go and why, decided once and applied as it is.
CREATE TABLE plan (
    pk         INTEGER PRIMARY KEY AUTOINCREMENT,
    id         BLOB    NOT NULL UNIQUE,                         -- UUIDv7, 16 bytes
    owner_uid  INTEGER NOT NULL,
    policy     TEXT,                                            -- NULL: somebody asked for it
    criteria   TEXT    NOT NULL,                                -- JSON
    state      TEXT    NOT NULL,                                -- PLANNED, APPLYING, APPLIED
    more       INTEGER NOT NULL,                                -- more would go than one plan may name
    bytes      INTEGER NOT NULL,                                -- of the distinct contents
    created_at INTEGER NOT NULL,
    applied_at INTEGER
) STRICT;
CREATE INDEX plan_by_owner ON plan (owner_uid, pk);
CREATE INDEX plan_applying ON plan (pk) WHERE state = 'APPLYING';

CREATE TABLE plan_item (
    plan     INTEGER NOT NULL REFERENCES plan (pk),
    position INTEGER NOT NULL,
    version  INTEGER NOT NULL REFERENCES version (pk),
    action   TEXT    NOT NULL,                                  -- archive, delete
    reason   TEXT    NOT NULL,
    seen     TEXT    NOT NULL,                                  -- JSON: what must still be so
    outcome  TEXT,                                              -- NULL until applied; done, skipped
    why      TEXT,                                              -- why it was skipped
    PRIMARY KEY (plan, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX plan_item_open ON plan_item (plan, position) WHERE outcome IS NULL;

CREATE TABLE policy (
    pk          INTEGER PRIMARY KEY,
    owner_uid   INTEGER,                                        -- NULL: of the configuration, for each user by themselves
    name        TEXT    NOT NULL,
    criteria    TEXT    NOT NULL,                               -- JSON
    every       INTEGER NOT NULL,                               -- milliseconds
    next_at     INTEGER NOT NULL,
    holder      BLOB,                                           -- UUID of the daemon that is at it
    lease_until INTEGER,
    runs        INTEGER NOT NULL DEFAULT 0,
    last        TEXT                                            -- JSON; NULL before the first run
) STRICT;
CREATE UNIQUE INDEX policy_by_name ON policy (coalesce(owner_uid, -1), name);
