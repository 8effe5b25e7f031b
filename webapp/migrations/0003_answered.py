"""Answers to requests with an `Idempotency-Key`."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations, models

import webapp.shards.next_id


class Migration(migrations.Migration):
    """One table more."""

    dependencies: ClassVar = [("webapp", "0002_files_lane")]
    operations: ClassVar = [
        migrations.CreateModel(
            name="Answered",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "person_id", "about", "key", blank=True, editable=False, primary_key=True,
                        serialize=False,
                    ),
                ),
                ("person_id", models.BigIntegerField()),
                ("about", models.BigIntegerField()),
                ("key", models.TextField()),
                ("id", models.BigIntegerField(db_default=webapp.shards.next_id.NextId(), editable=False)),
                ("content", models.TextField()),
                ("answer", models.TextField()),
            ],
            options={
                "db_table": "answered",
                "indexes": [models.Index(fields=["id"], name="answered_age")],
            },
        ),
    ]  # fmt: skip
