"""Notes to vectors and words. The road through the files:

templates -> prompts (a note becomes ids) -> backbone (ids become states) -> lexicon, head (states and words become an
embedding) -> encoder (all of it, and what a user holds).

tasks and generation/ are what a note writes, learned and asked for; losses and negatives what training minimises; folder, lora,
sentence and versions what is saved, and as what.
"""
