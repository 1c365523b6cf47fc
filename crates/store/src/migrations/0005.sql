-- The group whose VMs see each other on the bridge: its name, and the number that all of its VMs have of it.
ALTER TABLE vm ADD COLUMN group_name TEXT;
ALTER TABLE vm ADD COLUMN group_number INTEGER;
CREATE INDEX vm_group_number ON vm (group_number);
