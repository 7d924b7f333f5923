-- Indexes for lists: newest first among those of one state, for each way in which a list is narrowed. The key of the row,
-- which ends every index, tells apart what was made in the same microsecond.

DROP INDEX version_by_graph;
DROP INDEX version_by_workspace;
DROP INDEX version_by_state;
DROP INDEX version_by_type;
DROP INDEX version_by_owner;
DROP INDEX version_by_created;
DROP INDEX version_by_updated;

CREATE INDEX version_by_graph ON version (graph_id, state, created_at) WHERE graph_id IS NOT NULL;
CREATE INDEX version_by_workspace ON version (workspace, state, created_at) WHERE workspace IS NOT NULL;
CREATE INDEX version_by_type ON version (type, state, created_at);
CREATE INDEX version_by_owner ON version (owner_uid, state, created_at);
CREATE INDEX version_by_state ON version (state, created_at);
CREATE INDEX version_by_updated ON version (state, updated_at);

-- root asks for a name without saying whose.
CREATE INDEX alias_by_name ON alias (name);
