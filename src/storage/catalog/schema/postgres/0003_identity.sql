-- Which catalog this is, for ever: one row. A remote store belongs to one catalog.
CREATE TABLE identity (uuid UUID NOT NULL);
INSERT INTO identity (uuid) VALUES (gen_random_uuid());
