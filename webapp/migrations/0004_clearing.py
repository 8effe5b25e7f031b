"""Lanes of the outbox for photos to clear and for files to delete later; likes and comments outlive their photo."""

from __future__ import annotations

from typing import Any, ClassVar

import django.db.models.deletion
from django.db import migrations, models


def _photo() -> models.ForeignKey[Any, Any]:
    return models.ForeignKey(
        db_constraint=False,
        db_index=False,
        on_delete=django.db.models.deletion.DO_NOTHING,
        related_name="+",
        to="webapp.photo",
    )


class Migration(migrations.Migration):
    """The table of the outbox is short; the foreign keys are only dropped, which looks at no row."""

    dependencies: ClassVar = [("webapp", "0003_answered")]
    operations: ClassVar = [
        migrations.RemoveConstraint(model_name="outbox", name="outbox_lane_number"),
        migrations.RemoveConstraint(model_name="outbox", name="outbox_kind"),
        migrations.AddConstraint(
            model_name="outbox",
            constraint=models.CheckConstraint(
                condition=models.Q(("lane__gte", -1), ("lane__lt", 35)), name="outbox_lane_number"
            ),
        ),
        migrations.AddConstraint(
            model_name="outbox",
            constraint=models.CheckConstraint(
                condition=models.Q(("kind__in", ["event", "edge", "fanout", "withdraw", "clear"])),
                name="outbox_kind",
            ),
        ),
        migrations.AlterField(model_name="like", name="photo", field=_photo()),
        migrations.AlterField(model_name="comment", name="photo", field=_photo()),
    ]
