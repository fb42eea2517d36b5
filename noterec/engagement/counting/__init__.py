"""From a log of any length to each note's strongest related notes, in bounded memory.

log -> events -> folding, histories -> walking (or swing) -> merging; `searching` does the last two by blocks of notes, `mining` is
the plan of it all, `weightings` says how pairs are scored.
"""
