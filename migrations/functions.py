"""`replace_in`: a migration changes a part of a function, and leaves what others have changed in it."""

from alembic import op


def replace_in(function: str, old: str, new: str) -> None:
    """Replace this part of the body of `function`, named with the types of its arguments. Raises, at the server, where
    it has no such part."""
    op.execute(f"""
        DO $do$
        DECLARE
            before CONSTANT text := pg_get_functiondef('{function}'::regprocedure);
        BEGIN
            ASSERT position($old${old}$old$ IN before) > 0, '{function} is none that this migration knows';
            EXECUTE replace(before, $old${old}$old$, $new${new}$new$);
        END
        $do$
    """)
