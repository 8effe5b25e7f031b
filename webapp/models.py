"""The tables of a shard. No foreign key leaves a shard: ids of people and photos tell where to look."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.search import SearchVector, SearchVectorField
from django.db import models
from django.db.models import BigIntegerField, Func, Q, Value
from django.db.models.functions import Now

from webapp.shards.next_id import NextId

__all__ = ["Answered", "Comment", "Follower", "Following", "Like", "Outbox", "Person", "Photo"]

# Events 0 to 15, tasks 16 to 31, files to delete 32, photos to clear 33, files to delete later 34 (webapp/outbox.py);
# -1: nobody can make sense of the row.
LANES = range(-1, 35)


def _id(**options: object) -> BigIntegerField:
    return BigIntegerField(db_default=NextId(), editable=False, **options)


# The "simple" configuration: people write in many languages, and names are in none.
def _words(*columns: object) -> models.GeneratedField:
    return models.GeneratedField(
        expression=SearchVector(*columns, config="simple"), output_field=SearchVectorField(), db_persist=True
    )


# No constraint: the likes and comments of a photo that is gone follow it in slices (webapp/clearing.py). Who adds one
# counts it on the photo's row in the same transaction, so none is added to a photo that is not there.
def _photo() -> models.ForeignKey[Any, Any]:
    return models.ForeignKey(
        "Photo", on_delete=models.DO_NOTHING, related_name="+", db_index=False, db_constraint=False
    )


class Person(models.Model):
    """A person, on the shard of their name; their id tells that shard."""

    shard_by: ClassVar[str] = "id"

    id = _id(primary_key=True)
    name = models.TextField()  # lower case; never changes
    display_name = models.TextField(default="", db_default="")
    bio = models.TextField(default="", db_default="")
    password = models.TextField()
    sessions = models.IntegerField(default=0, db_default=0)  # how often all of them were ended
    avatar = models.TextField(default="", db_default="")  # key of the stored picture; "": none
    followers = models.IntegerField(default=0, db_default=0)
    following = models.IntegerField(default=0, db_default=0)
    photos = models.IntegerField(default=0, db_default=0)
    # PostgreSQL takes "ana.lima" for the name of a host, one word: so it is shown the parts as well.
    search = _words(
        "name",
        Func("name", Value("._"), Value("  "), function="translate", output_field=models.TextField()),
        "display_name",
    )

    class Meta:
        db_table = "person"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["name"], name="person_name"),
            models.CheckConstraint(condition=Q(name__regex=r"^[a-z0-9_.]{1,30}$"), name="person_name_form"),
        ]
        indexes: ClassVar = [GinIndex(fields=["search"], name="person_search")]


class Photo(models.Model):
    """A photo, on its owner's shard."""

    shard_by: ClassVar[str] = "id"

    id = _id(primary_key=True)
    owner_id = BigIntegerField()
    caption = models.TextField(default="", db_default="")
    key = models.TextField()  # of the stored pictures
    width = models.IntegerField()
    height = models.IntegerField()
    likes = models.IntegerField(default=0, db_default=0)
    comments = models.IntegerField(default=0, db_default=0)
    search = _words("caption")

    class Meta:
        db_table = "photo"
        indexes: ClassVar = [
            models.Index(fields=["owner_id", "-id"], name="photo_owner"),
            GinIndex(fields=["search"], name="photo_search"),
        ]


class Like(models.Model):
    """A person likes a photo, on the photo's shard."""

    shard_by: ClassVar[str] = "photo_id"

    pk = models.CompositePrimaryKey("photo", "person_id")
    photo = _photo()
    person_id = BigIntegerField()
    id = _id()

    class Meta:
        db_table = "photo_like"
        indexes: ClassVar = [models.Index(fields=["photo", "-id"], name="photo_like_order")]


class Comment(models.Model):
    """A comment, on the photo's shard."""

    shard_by: ClassVar[str] = "photo_id"

    id = _id(primary_key=True)
    photo = _photo()
    author_id = BigIntegerField()
    text = models.TextField()
    mentions = ArrayField(BigIntegerField(), default=list, db_default=[])  # ids of people

    class Meta:
        db_table = "comment"
        indexes: ClassVar = [models.Index(fields=["photo", "id"], name="comment_photo")]


class Following(models.Model):
    """Whom a person follows, on the follower's shard: the truth."""

    shard_by: ClassVar[str] = "follower_id"

    pk = models.CompositePrimaryKey("follower_id", "followee_id")
    follower_id = BigIntegerField()
    followee_id = BigIntegerField()
    id = _id()

    class Meta:
        db_table = "following"
        indexes: ClassVar = [models.Index(fields=["follower_id", "-id"], name="following_order")]


class Follower(models.Model):
    """Who follows a person, on the followee's shard: brought there by the relay. The last change wins."""

    shard_by: ClassVar[str] = "followee_id"

    pk = models.CompositePrimaryKey("followee_id", "follower_id")
    followee_id = BigIntegerField()
    follower_id = BigIntegerField()
    change = BigIntegerField()  # id of the outbox row that said so last
    active = models.BooleanField()

    class Meta:
        db_table = "follower"
        indexes: ClassVar = [
            models.Index(fields=["followee_id", "-change"], condition=Q(active=True), name="follower_active")
        ]


class Answered(models.Model):
    """What was answered to a request with an `Idempotency-Key`, on the shard of what that made; for a day."""

    shard_by: ClassVar[str] = "id"

    pk = models.CompositePrimaryKey("person_id", "about", "key")
    person_id = BigIntegerField()
    about = BigIntegerField()  # id of the photo that is commented on; 0: a new photo
    key = models.TextField()
    id = _id()
    content = models.TextField()  # digest of what was sent
    answer = models.TextField()  # JSON

    class Meta:
        db_table = "answered"
        indexes: ClassVar = [models.Index(fields=["id"], name="answered_age")]


class Outbox(models.Model):
    """What is to be done after a transaction, in the order of ids within a lane."""

    shard_by: ClassVar[str] = "id"

    id = _id(primary_key=True)
    lane = models.SmallIntegerField()
    kind = models.TextField()
    payload = models.TextField()  # JSON
    created = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "outbox"
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(lane__gte=LANES.start, lane__lt=LANES.stop), name="outbox_lane_number"
            ),
            models.CheckConstraint(
                condition=Q(kind__in=["event", "edge", "fanout", "withdraw", "clear"]), name="outbox_kind"
            ),
        ]
        indexes: ClassVar = [models.Index(fields=["lane", "id"], name="outbox_lane")]
