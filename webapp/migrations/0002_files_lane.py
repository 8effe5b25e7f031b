"""A lane of the outbox for files that are to be deleted."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations, models


class Migration(migrations.Migration):
    """The table is short, and looked through in a moment."""

    dependencies: ClassVar = [("webapp", "0001_initial")]
    operations: ClassVar = [
        migrations.RemoveConstraint(model_name="outbox", name="outbox_lane_number"),
        migrations.AddConstraint(
            model_name="outbox",
            constraint=models.CheckConstraint(
                condition=models.Q(("lane__gte", -1), ("lane__lt", 33)), name="outbox_lane_number"
            ),
        ),
    ]
