-- The three roles of docworker and its database. What they may do is for the migrations.
-- Run as a superuser, and again whenever a password changes:
--   psql -v owner_password=… -v worker_password=… -v dispatcher_password=… -f roles.sql
\set ON_ERROR_STOP on

SELECT format('CREATE ROLE %I', role)
FROM unnest(ARRAY['docworker_owner', 'docworker_worker', 'docworker_dispatcher']) AS role
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) \gexec

ALTER ROLE docworker_owner LOGIN NOSUPERUSER NOCREATEROLE NOBYPASSRLS PASSWORD :'owner_password';
ALTER ROLE docworker_worker LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS PASSWORD :'worker_password';
ALTER ROLE docworker_dispatcher LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS PASSWORD :'dispatcher_password';

-- How far a replica has received is hidden from other roles, and with it the timeline it follows.
GRANT pg_read_all_stats TO docworker_worker, docworker_dispatcher;

SELECT 'CREATE DATABASE docworker OWNER docworker_owner'
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'docworker') \gexec
