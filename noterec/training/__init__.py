"""Pairs to weights. The road through the files:

train (the stage) -> plan (what is left open, decided) -> start (backbone, head, what notes can write) -> material (notes and
their graph) -> fit (Lightning's trainer) -> module (one step: batches, forward, mining, gather, the loss) -> callbacks (cold
recall, checkpoints).

chunks is the gradient cache, gather makes several processes one, forecast says what a run will cost, run_folder knows what is
finished.
"""
