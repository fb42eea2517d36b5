"""Tables of notes to tables of vectors: incremental, resumable, with a cache of readout states."""
