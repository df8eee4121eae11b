"""One local server each: PostgreSQL and Valkey, their programs, and the roles in the database."""
