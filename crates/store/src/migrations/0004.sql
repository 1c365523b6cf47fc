-- A VM's number in the bridge's subnet: its own from its creation on the bridge, or its first start there, until its record goes.
ALTER TABLE vm ADD COLUMN host_number INTEGER;
CREATE UNIQUE INDEX vm_host_number ON vm (host_number);
