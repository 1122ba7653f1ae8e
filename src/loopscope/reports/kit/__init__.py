"""What all reports share: pages, tables, charts, number formats and line styles."""
