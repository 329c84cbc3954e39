-- The role that the sidecar logs in as, for PostgreSQL 16 and later (before: grants-11.sql). Run it as a superuser on the primary,
-- once; the standbys get it by replication. Connect to the database that the sidecar polls (the one in primary.dsn; without it the
-- one in the standby's primary_conninfo, else the one in standby.dsn): rights on functions are kept per database.
--
--   psql -d postgres -f grants-16.sql
--
-- Then give it a password (\password slotsync) or a certificate, and let it in by pg_hba.conf on every server that is or may become
-- the standby or the primary: to that database, and to every database that has failover slots or guards.

DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'slotsync') THEN
    CREATE ROLE slotsync;
  END IF;
END
$$;

-- to create, copy, advance and drop replication slots
ALTER ROLE slotsync LOGIN REPLICATION;

-- to see primary_conninfo, whether the standby streams, and which process holds the sidecar's lock
GRANT pg_monitor TO slotsync;

-- where slotsync flag before 17 keeps which slots are to survive a failover; leave it out where slots.include alone says so
CREATE SCHEMA IF NOT EXISTS slotsync AUTHORIZATION slotsync;

-- to have a guard made at once; without it one waits for the next record of running transactions (15 s, or a checkpoint)
GRANT EXECUTE ON FUNCTION pg_catalog.pg_log_standby_snapshot() TO slotsync;

-- only where slots are to come by their files (slots.provision; docs/older-versions.md): to read state files, snapshots, notes of
-- rewritten catalogs and WAL. It reaches every file inside the data directory
-- GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean) TO slotsync;
