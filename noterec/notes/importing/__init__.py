"""Files of other makers become datasets (`noterec import`)."""

from noterec.notes.importing.run import ImportSummary, column_maps, import_dataset

__all__ = ["ImportSummary", "column_maps", "import_dataset"]
