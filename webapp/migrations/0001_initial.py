"""The tables of a shard, and its sequence of ids."""

from __future__ import annotations

from typing import Any, ClassVar

import django.contrib.postgres.fields
import django.contrib.postgres.indexes
import django.contrib.postgres.search
import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

import webapp.shards.next_id
from webapp.shards import current_shard
from webapp.shards.next_id import next_id_sql


def make_ids(apps: Any, editor: Any) -> None:
    """The sequence and next_id()."""
    editor.execute(next_id_sql(current_shard()), params=None)


class Migration(migrations.Migration):
    """All there was at first."""

    initial = True
    dependencies: ClassVar[list[tuple[str, str]]] = []
    operations: ClassVar = [
        migrations.RunPython(make_ids),
        migrations.CreateModel(
            name="Follower",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "followee_id",
                        "follower_id",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("followee_id", models.BigIntegerField()),
                ("follower_id", models.BigIntegerField()),
                ("change", models.BigIntegerField()),
                ("active", models.BooleanField()),
            ],
            options={
                "db_table": "follower",
                "indexes": [
                    models.Index(
                        condition=models.Q(("active", True)),
                        fields=["followee_id", "-change"],
                        name="follower_active",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Following",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "follower_id",
                        "followee_id",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("follower_id", models.BigIntegerField()),
                ("followee_id", models.BigIntegerField()),
                ("id", models.BigIntegerField(db_default=webapp.shards.next_id.NextId(), editable=False)),
            ],
            options={
                "db_table": "following",
                "indexes": [models.Index(fields=["follower_id", "-id"], name="following_order")],
            },
        ),
        migrations.CreateModel(
            name="Outbox",
            fields=[
                (
                    "id",
                    models.BigIntegerField(
                        db_default=webapp.shards.next_id.NextId(),
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("lane", models.SmallIntegerField()),
                ("kind", models.TextField()),
                ("payload", models.TextField()),
                ("created", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                "db_table": "outbox",
                "indexes": [models.Index(fields=["lane", "id"], name="outbox_lane")],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("lane__gte", -1), ("lane__lt", 32)), name="outbox_lane_number"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("kind__in", ["event", "edge", "fanout", "withdraw"])),
                        name="outbox_kind",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Person",
            fields=[
                (
                    "id",
                    models.BigIntegerField(
                        db_default=webapp.shards.next_id.NextId(),
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("name", models.TextField()),
                ("display_name", models.TextField(db_default="", default="")),
                ("bio", models.TextField(db_default="", default="")),
                ("password", models.TextField()),
                ("avatar", models.TextField(db_default="", default="")),
                ("followers", models.IntegerField(db_default=0, default=0)),
                ("following", models.IntegerField(db_default=0, default=0)),
                ("photos", models.IntegerField(db_default=0, default=0)),
                (
                    "search",
                    models.GeneratedField(
                        db_persist=True,
                        expression=django.contrib.postgres.search.SearchVector(
                            "name",
                            models.Func(
                                "name",
                                models.Value("._"),
                                models.Value("  "),
                                output_field=models.TextField(),
                                function="translate",
                            ),
                            "display_name",
                            config="simple",
                        ),
                        output_field=django.contrib.postgres.search.SearchVectorField(),
                    ),
                ),
            ],
            options={
                "db_table": "person",
                "indexes": [
                    django.contrib.postgres.indexes.GinIndex(fields=["search"], name="person_search")
                ],
                "constraints": [
                    models.UniqueConstraint(fields=("name",), name="person_name"),
                    models.CheckConstraint(
                        condition=models.Q(("name__regex", "^[a-z0-9_.]{1,30}$")), name="person_name_form"
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Photo",
            fields=[
                (
                    "id",
                    models.BigIntegerField(
                        db_default=webapp.shards.next_id.NextId(),
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("owner_id", models.BigIntegerField()),
                ("caption", models.TextField(db_default="", default="")),
                ("key", models.TextField()),
                ("width", models.IntegerField()),
                ("height", models.IntegerField()),
                ("likes", models.IntegerField(db_default=0, default=0)),
                ("comments", models.IntegerField(db_default=0, default=0)),
                (
                    "search",
                    models.GeneratedField(
                        db_persist=True,
                        expression=django.contrib.postgres.search.SearchVector("caption", config="simple"),
                        output_field=django.contrib.postgres.search.SearchVectorField(),
                    ),
                ),
            ],
            options={
                "db_table": "photo",
                "indexes": [
                    models.Index(fields=["owner_id", "-id"], name="photo_owner"),
                    django.contrib.postgres.indexes.GinIndex(fields=["search"], name="photo_search"),
                ],
            },
        ),
        migrations.CreateModel(
            name="Like",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "photo", "person_id", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("person_id", models.BigIntegerField()),
                ("id", models.BigIntegerField(db_default=webapp.shards.next_id.NextId(), editable=False)),
                (
                    "photo",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to="webapp.photo",
                    ),
                ),
            ],
            options={
                "db_table": "photo_like",
                "indexes": [models.Index(fields=["photo", "-id"], name="photo_like_order")],
            },
        ),
        migrations.CreateModel(
            name="Comment",
            fields=[
                (
                    "id",
                    models.BigIntegerField(
                        db_default=webapp.shards.next_id.NextId(),
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("author_id", models.BigIntegerField()),
                ("text", models.TextField()),
                (
                    "mentions",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.BigIntegerField(), db_default=[], default=list, size=None
                    ),
                ),
                (
                    "photo",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to="webapp.photo",
                    ),
                ),
            ],
            options={
                "db_table": "comment",
                "indexes": [models.Index(fields=["photo", "id"], name="comment_photo")],
            },
        ),
    ]
