-- The user who runs the VM's commands where none is said.
ALTER TABLE vm ADD COLUMN user_name TEXT;
