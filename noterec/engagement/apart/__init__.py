"""The same count done apart: night after night (window), or on several machines (shards)."""
