-- A machine that was saved, with copies of its disks, which others can go on from.
CREATE TABLE snapshot (
  id           TEXT PRIMARY KEY,         -- names its directory
  name         TEXT NOT NULL UNIQUE,
  vm           TEXT NOT NULL,            -- what the VM was called that it was taken of
  image        TEXT NOT NULL REFERENCES image (id),
  kernel       TEXT NOT NULL REFERENCES kernel (id),
  vmm          TEXT NOT NULL,
  build        TEXT NOT NULL,            -- of that VMM, which alone reads what it wrote
  agent        INTEGER NOT NULL,         -- the version of the protocol that the agent in it speaks
  vcpu         INTEGER NOT NULL,
  memory       INTEGER NOT NULL,
  disk         INTEGER NOT NULL,
  overlay      INTEGER NOT NULL,
  link         TEXT,                     -- what its network card is connected to; without one it has none
  nat          INTEGER NOT NULL,
  env          TEXT NOT NULL,            -- JSON, as wire has it
  secret       TEXT NOT NULL,            -- of the agent's channel
  has_secrets  INTEGER NOT NULL,
  files        TEXT NOT NULL,            -- JSON: name, size and sha256 of each file that the VMM wrote
  size         INTEGER NOT NULL,         -- bytes on disk
  created_ms   INTEGER NOT NULL
) STRICT;

-- The build of the VMM that runs it.
ALTER TABLE vm ADD COLUMN build TEXT;
-- Whether banger put what may be secret into it. Of those that there are nobody knows any more.
ALTER TABLE vm ADD COLUMN has_secrets INTEGER NOT NULL DEFAULT 0;
UPDATE vm SET has_secrets = 1;
-- The snapshot that it is being made of, until it runs.
ALTER TABLE vm ADD COLUMN snapshot TEXT REFERENCES snapshot (id);
