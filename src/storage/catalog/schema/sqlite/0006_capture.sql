-- What the file looked like when it was registered last: by it a scan tells changed files without reading any.
ALTER TABLE artifact ADD COLUMN seen_inode INTEGER;
ALTER TABLE artifact ADD COLUMN seen_size INTEGER;
ALTER TABLE artifact ADD COLUMN seen_mtime INTEGER;             -- nanoseconds since 1970 UTC
ALTER TABLE artifact ADD COLUMN seen_ctime INTEGER;             -- the same; NULL: not noted
