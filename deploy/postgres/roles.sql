-- The roles of docworker and its database. What they may do is for the migrations.
-- Run as a superuser, and again whenever a password changes. The passwords are variables: owner_password,
-- worker_password, dispatcher_password and, where deploy/postgres/replica.sh copies the master, replication_password.
-- docs/operations.md shows how to give them so that no list of processes shows them.
\set ON_ERROR_STOP on

SELECT format('CREATE ROLE %I', role)
FROM unnest(ARRAY['docworker_owner', 'docworker_worker', 'docworker_dispatcher', 'docworker_producer']) AS role
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) \gexec

ALTER ROLE docworker_owner LOGIN NOSUPERUSER CREATEDB NOCREATEROLE NOBYPASSRLS PASSWORD :'owner_password';
ALTER ROLE docworker_worker LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS PASSWORD :'worker_password';
ALTER ROLE docworker_dispatcher LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS PASSWORD :'dispatcher_password';
-- For other programs that enqueue in transactions of their own: GRANT docworker_producer TO their_role;
ALTER ROLE docworker_producer NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS;

\if :{?replication_password}
SELECT 'CREATE ROLE docworker_replication'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'docworker_replication') \gexec
ALTER ROLE docworker_replication LOGIN REPLICATION NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS
    PASSWORD :'replication_password';
\endif

-- The owner makes the databases of organizations that have one of their own (CREATEDB), and drops one that processes are
-- connected to.
GRANT pg_signal_backend TO docworker_owner;

-- How far a replica has received is hidden from other roles, and with it the timeline it follows.
GRANT pg_read_all_stats TO docworker_worker, docworker_dispatcher;

SELECT 'CREATE DATABASE docworker OWNER docworker_owner'
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'docworker') \gexec

-- Where migrations ran before that role was made.
\connect docworker
SELECT format('GRANT USAGE ON SCHEMA ledger TO docworker_producer; GRANT EXECUTE ON FUNCTION %s TO docworker_producer',
              string_agg(oid::regprocedure::text, ', '))
FROM pg_proc WHERE pronamespace = to_regnamespace('ledger') AND proname IN ('enqueue', 'enqueue_many', 'await_jobs', 'order_jobs')
HAVING count(*) > 0 \gexec
