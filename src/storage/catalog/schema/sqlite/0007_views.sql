-- Artifacts as files: one range of an index for each directory, in the order in which it is listed.

CREATE INDEX version_by_type_and_place ON version (workspace, type, mount, path, pk) WHERE mount IS NOT NULL;
CREATE INDEX version_by_graph_and_place ON version (workspace, graph_id, mount, path, pk)
    WHERE mount IS NOT NULL AND graph_id IS NOT NULL;
CREATE INDEX version_by_workspace_and_artifact ON version (workspace, artifact, number) WHERE workspace IS NOT NULL;
