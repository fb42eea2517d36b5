"""The explorer: pages on which a person judges neighbours, tries a new note, looks at the map and at the evaluation.

    what is shown          catalogue (notes as their authors wrote them, kept by spool), thumbnails, related (who is
                           engaged with together), atlas (the map), figures (an evaluation), outline (the live index)
    how it is asked for    state (what the address bar says), lookup (finding notes), mapping (points of the map),
                           writing (categories and hashtags for a new note)
    how it looks           cards, views, pages (the router), site, templates, static

Pages are rendered here, with every text escaped; the JavaScript beside them only fetches the next one, suggests, and draws.
"""

from noterec.serving.explorer.pages import router

__all__ = ["router"]
