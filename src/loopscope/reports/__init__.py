"""Reports: figures, terminal output and self-contained HTML pages."""
