"""`quoted`: names of schemas and tables in the text of a migration, whatever they are made of."""

from psycopg import sql


def quoted(*names: str) -> str:
    """`"schema"."table"`, for the text that `op.execute` is given (where a colon begins a parameter)."""
    return sql.Identifier(*names).as_string().replace(":", r"\:")


def do(body: str) -> str:
    """A DO statement."""
    return f"DO {literal(body)}"


def literal(body: str) -> str:
    """Of code, as a name in it may hold any dollar quote."""
    return sql.Literal(body).as_string()
