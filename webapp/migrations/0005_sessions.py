"""How often a person has ended all sessions."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations, models


class Migration(migrations.Migration):
    """One column more, with a default in the database: no row is written, and processes of before may go on."""

    dependencies: ClassVar = [("webapp", "0004_clearing")]
    operations: ClassVar = [
        migrations.AddField(
            model_name="person", name="sessions", field=models.IntegerField(default=0, db_default=0)
        ),
    ]
