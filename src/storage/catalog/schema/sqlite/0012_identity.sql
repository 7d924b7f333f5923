-- Which catalog this is, for ever: one row. A remote store belongs to one catalog.
CREATE TABLE identity (uuid BLOB NOT NULL) STRICT;                  -- 16 bytes
INSERT INTO identity (uuid) VALUES (randomblob(16));
