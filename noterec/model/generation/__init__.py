"""What a model writes about a note: a category of a closed set, a category in its own words, or hashtags.

`tree` is the closed set, `search` finds what a model thinks of it, `reading` runs the model, `consistency` turns samples into a
confidence, `answers` makes hashtags of a text, and `writer` puts them together.
"""
