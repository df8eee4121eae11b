"""The schema's history. `migrations.runner` upgrades; everything else is Alembic's."""
