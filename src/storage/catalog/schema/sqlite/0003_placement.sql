-- Contents whose place in the store has to be looked at again, written in the transaction that gave the reason: a version
-- that was archived, restored or swept, or a held one whose content was replaced.
CREATE TABLE placement (
    digest BLOB    PRIMARY KEY,                                 -- BLAKE3, 32 bytes
    turn   INTEGER NOT NULL DEFAULT 1                           -- counts the reasons: only who saw the last one may remove the row
) STRICT, WITHOUT ROWID;
