-- What was shipped into a VM, one at most.
CREATE TABLE workspace (
  vm           TEXT PRIMARY KEY REFERENCES vm (id) ON DELETE CASCADE,
  guest_path   TEXT NOT NULL,
  host_path    BLOB NOT NULL,            -- any bytes but NUL
  head         TEXT NOT NULL,            -- the commit that was checked out
  tree         TEXT NOT NULL,            -- what was shipped, as git's tree
  prepared_ms  INTEGER NOT NULL
) STRICT;
