CREATE TABLE kernel (
  id          TEXT PRIMARY KEY,          -- names its directory
  name        TEXT NOT NULL UNIQUE,
  release     TEXT NOT NULL,
  source      TEXT NOT NULL,
  size        INTEGER NOT NULL,
  created_ms  INTEGER NOT NULL
) STRICT;

CREATE TABLE image (
  id          TEXT PRIMARY KEY,          -- names its directory
  name        TEXT NOT NULL UNIQUE,
  source      TEXT NOT NULL,
  digest      TEXT NOT NULL,
  size        INTEGER NOT NULL,
  uuid        TEXT NOT NULL,             -- of its file system
  kernel      TEXT,                      -- by name; without one the default kernel
  ready       TEXT NOT NULL,
  init        TEXT NOT NULL,             -- what was found, or the path that was asked for
  created_ms  INTEGER NOT NULL
) STRICT;

CREATE TABLE vm (
  id              TEXT PRIMARY KEY,
  name            TEXT NOT NULL UNIQUE,
  state           TEXT NOT NULL,
  reason          TEXT,
  image           TEXT NOT NULL REFERENCES image (id),
  kernel          TEXT NOT NULL REFERENCES kernel (id),
  vmm             TEXT NOT NULL,
  vcpu            INTEGER NOT NULL,
  vcpu_origin     TEXT NOT NULL,
  memory          INTEGER NOT NULL,
  memory_origin   TEXT NOT NULL,
  disk            INTEGER NOT NULL,
  disk_origin     TEXT NOT NULL,
  overlay         INTEGER NOT NULL,
  overlay_origin  TEXT NOT NULL,
  env             TEXT NOT NULL,         -- JSON, as wire has it
  ready           TEXT,
  rm              INTEGER NOT NULL,
  machine_id      TEXT NOT NULL,
  secret          TEXT,                  -- of the agent's channel, while it runs
  created_ms      INTEGER NOT NULL,
  started_ms      INTEGER,
  timeline        TEXT NOT NULL          -- JSON, of the last start
) STRICT;

-- Every host resource that is held, and how to give it back; written before the resource is taken.
CREATE TABLE ledger (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,
  vm         TEXT,                       -- no reference: an entry outlives the row it was for
  operation  TEXT NOT NULL,
  kind       TEXT NOT NULL,
  detail     TEXT NOT NULL,
  taken      INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX ledger_vm ON ledger (vm);
