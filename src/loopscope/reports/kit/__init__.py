"""Building blocks of all reports: pages, tables, charts, number formats and line styles."""
