-- Whether a content was searched for the secrets of its workspace: done, nothing-to-find, unavailable. NULL: registered
-- before there was a search.
--
-- `suspected` of a version is the type that the other one of name and bytes speaks for, whichever of them won.
ALTER TABLE version ADD COLUMN secret_scan TEXT;
