"""The database function that makes ids, as SQL for one shard and as a default of Django's fields."""

from __future__ import annotations

from importlib import resources

from django.db.models import BigIntegerField, Func

from webapp.shards.ids import EPOCH_MS
from webapp.shards.layout import schema

__all__ = ["LOCK", "NextId", "next_id_sql"]

LOCK = 1_918_985_317  # first key of the advisory locks under which sequences are set; the second is the shard


class NextId(Func):
    """`next_id()` of the current shard."""

    function = "next_id"
    template = "%(function)s()"
    arity = 0
    allowed_default = True
    output_field = BigIntegerField()


def next_id_sql(shard: int) -> str:
    """What makes sequence and function of a shard, in its schema."""
    text = (resources.files("webapp.shards") / "next_id.sql").read_text(encoding="utf-8")
    for name, value in {"schema": schema(shard), "shard": shard, "epoch": EPOCH_MS, "lock": LOCK}.items():
        text = text.replace(f"{{{name}}}", str(value))
    return text
