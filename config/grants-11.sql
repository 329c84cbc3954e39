-- The role that the sidecar logs in as, for PostgreSQL 11 to 15. Run it as a superuser on the primary, once; the standbys get it by
-- replication. Connect to the database that the sidecar polls (the one in primary.dsn; without it the one in the standby's
-- primary_conninfo, else the one in standby.dsn): rights on functions are kept per database.
--
--   psql -d postgres -f grants-11.sql
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

-- to copy, advance and drop replication slots
ALTER ROLE slotsync LOGIN REPLICATION;

-- to see primary_conninfo, whether the standby streams, and which process holds the sidecar's lock
GRANT pg_monitor TO slotsync;

-- where slotsync flag keeps which slots are to survive a failover; leave it out where slots.include alone says so
CREATE SCHEMA IF NOT EXISTS slotsync AUTHORIZATION slotsync;

-- to read the state files of slots, their snapshots, notes of rewritten catalogs, and WAL that the standby lacks. It reaches every file inside the data directory,
-- and through it whatever the database holds: guard this role's password as you would a superuser's
GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean) TO slotsync;

-- 11 to 14: to see which catalogs have been rewritten (VACUUM FULL) while slots needed their old rows, and whether a slot that has
-- never moved found its beginning by itself. From 15 on pg_monitor may, and this is needed before 15.8 only
GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_dir(text, boolean, boolean) TO slotsync;
