-- A VM's network: whether it reaches the world, whether the host's loopback may come with that, and what its card is
-- connected to since its last start.
ALTER TABLE vm ADD COLUMN nat INTEGER NOT NULL DEFAULT 0;
ALTER TABLE vm ADD COLUMN host_loopback INTEGER NOT NULL DEFAULT 0;
ALTER TABLE vm ADD COLUMN link TEXT;
